"""A process that says what a test looks for: `python -m tests.logs.speaker console`."""

from __future__ import annotations

import logging
import sys
import warnings

from structlog.contextvars import bound_contextvars

from camserve.logs import configure_logs, get_logger
from tests.logs.hostile import HOSTILE

__all__ = ["main"]


def main(form: str) -> None:
    configure_logs("info", form, process="speaker", worker="w1")  # type: ignore[arg-type]
    logger = get_logger("tests.speaker")
    logger.debug("too quiet")
    with bound_contextvars(request_id="r1"):
        logger.info("fields", job_id="j1", run_ms=12.5, empty="", quoted='a b="c"', listed=[1, "x"])
    for text in HOSTILE:
        logger.info("value", text=text, listed=[text], object=_Rude(text))
        logging.getLogger("a.library").warning("message %s", text)
        try:
            _refuse(text)
        except ValueError:
            logger.exception("raised", error_id="e1")
    logger.info("not JSON", value=float("nan"))
    warnings.warn("a library warns", stacklevel=1)
    raise RuntimeError("nobody caught it")


def _refuse(text: str) -> None:
    raise ValueError(text)


class _Rude:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


if __name__ == "__main__":
    main(sys.argv[1])
