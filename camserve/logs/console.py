"""Lines for people: a time, a level, what happened, and fields."""

from __future__ import annotations

import traceback
from typing import Any, Final, TextIO

from structlog.dev import (
    Column,
    ConsoleRenderer,
    KeyValueColumnFormatter,
    LogLevelColumnFormatter,
)
from structlog.processors import TimeStamper
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

__all__ = ["console_processors"]

# for machines, which have JSON: here they would fill the line
_OMITTED: Final = ("logger", "process", "worker", "route", "trace_id", "span_id")
_IDS: Final = ("job_id", "job_ids", "request_id", "request_ids")
_INDENT: Final = "    "
_EVENT_WIDTH: Final = 20  # of the short ones, behind which the fields then line up


def console_processors(*, colors: bool) -> list[Processor]:
    """The last of a chain: what comes in is a dictionary, what goes out text."""
    styles = ConsoleRenderer.get_default_column_styles(colors)
    levels = ConsoleRenderer.get_default_level_styles(colors)

    def plain(style: str, value_repr: Any, width: int = 0) -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, styles.reset, value_repr, width)

    columns = [
        Column("timestamp", plain(styles.timestamp, str)),
        Column("level", _Level(levels, styles.reset)),
        Column("event", plain("", _one_line, _EVENT_WIDTH)),
        Column("", KeyValueColumnFormatter(styles.kv_key, "", styles.reset, _value)),
    ]
    return [
        _arranged,
        TimeStamper("%H:%M:%S", utc=False),
        ConsoleRenderer(columns=columns, exception_formatter=_indented, sort_keys=False),
    ]


class _Level(LogLevelColumnFormatter):
    """`warning`, without the brackets."""

    def __call__(self, key: str, value: object) -> str:
        return super().__call__(key, value).replace("[", "", 1).replace("]", "", 1)


def _arranged(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Ids come last: they are long, and looked for, not read."""
    ids = {name: event[name] for name in _IDS if name in event}
    rest = {name: event[name] for name in event if name not in (*_OMITTED, *_IDS)}
    return rest | ids


def _one_line(value: object) -> str:
    """A text in which nothing ends the line or commands a terminal: what a file is called, what a
    header says."""
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else repr(text)[1:-1]


def _value(value: object) -> str:
    """As `_one_line`; in quotes, if without them it could be taken for several fields."""
    if isinstance(value, float):
        return f"{value:g}"
    text = _one_line(value)
    return (
        repr(value) if isinstance(value, str) and (not text or set(text) & set(" =\"'")) else text
    )


def _indented(output: TextIO, exc_info: ExcInfo) -> None:
    """A traceback. No line of it begins as an event does, whatever the error says."""
    for part in traceback.format_exception(*exc_info):
        output.writelines(f"\n{_INDENT}{_one_line(line)}" for line in part.splitlines())
