"""One format for all that a process says, whichever library says it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal

from opentelemetry import trace
from structlog.contextvars import merge_contextvars
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from camserve.logs.console import console_processors
from camserve.logs.outlet import Outlet

__all__ = ["adopt_loggers", "configure_logs", "flush_logs"]

_NOISY: Final = (
    *("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "python_multipart"),
    *("huggingface_hub", "transformers", "PIL"),
)
# each attempt of an export that is tried again is a warning
_QUIET: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter",)
_STDERR: Final = 2
MOST_FRAMES: Final = 20  # of a traceback in JSON: its first ten and its last ten


def configure_logs(
    level: str, form: Literal["console", "json"], *, process: str, **fields: str
) -> None:
    """Log at `level` and above, once per process; libraries that chatter from warnings on.

    form: `console`, for people, or `json`, one object a line. process: what kind of process this
    is. fields: what every line of it says besides.
    """
    formatter = ProcessorFormatter(
        processors=[
            add_log_level,
            add_logger_name,
            partial(_of_process, fields={"process": process, **fields}),
            merge_contextvars,
            _of_trace,
            ExtraAdder(),
            _without_duplicates,
            *(_json_processors() if form == "json" else console_processors(colors=_has_colors())),
        ]
    )
    logging.basicConfig(level=level.upper(), handlers=[Outlet(formatter, _STDERR)], force=True)
    for names, least in ((_NOISY, logging.WARNING), (_QUIET, logging.ERROR)):
        for name in names:
            logging.getLogger(name).setLevel(max(least, logging.getLogger().level))
    logging.captureWarnings(True)  # noqa: FBT003 - positional only
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda end: _log_uncaught(
        end.exc_type, end.exc_value or end.exc_type(), end.exc_traceback
    )
    adopt_loggers()


def adopt_loggers() -> None:
    """Take from libraries the handlers that they gave themselves, to write in their own format.

    To be called again after the import of one that does so.
    """
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            own = [one for one in logger.handlers if type(one) is logging.StreamHandler]
            for handler in own:
                logger.removeHandler(handler)
                logger.propagate = True


def flush_logs() -> None:
    """Wait, not for long, until all lines are written: before a process ends itself."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _json_processors() -> list[Processor]:
    return [
        TimeStamper("iso", utc=True),
        _in_order,
        # never with the values of variables: they may be keys, or somebody's picture
        ExceptionRenderer(ExceptionDictTransformer(show_locals=False, max_frames=MOST_FRAMES)),
        # escaped down to ASCII: no character of a file name ends a line or commands a terminal
        JSONRenderer(partial(json.dumps, skipkeys=True, allow_nan=False)),
    ]


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What every line has comes first."""
    return {**{name: event.pop(name) for name in ("timestamp", "level", "event")}, **event}


def _of_process(
    _: WrappedLogger, __: str, event: EventDict, *, fields: dict[str, str]
) -> EventDict:
    return {**event, **fields}


def _of_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The ids of the span that this happens in, as the data model of OpenTelemetry's logs has
    them."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _without_duplicates(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Without what is no field: structlog's own, and uvicorn's message once more, in colours."""
    for name in ("_record", "_from_structlog", "color_message"):
        event.pop(name, None)
    return event


def _has_colors() -> bool:
    """As no-color.org and force-color.org have it."""
    asked = os.environ.get("FORCE_COLOR") or os.isatty(_STDERR)
    return bool(asked) and not os.environ.get("NO_COLOR")


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace_back: TracebackType | None
) -> Any:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace_back)
        return
    logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error, trace_back))
