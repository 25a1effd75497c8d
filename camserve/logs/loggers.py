"""Loggers whose events have fields: `logger.info("job done", job_id=job_id, run_ms=12.5)`."""

from __future__ import annotations

import logging
from typing import cast

import structlog
from structlog.stdlib import BoundLogger, filter_by_level, render_to_log_args_and_kwargs

__all__ = ["get_logger"]


def get_logger(name: str) -> BoundLogger:
    """A logger of the standard library by that name, whose keyword arguments become fields.

    Nothing must be configured: its records are ordinary ones, the fields their attributes. So a
    field cannot be called as an attribute that every record has: `name`, `process`, `args`, `msg`.
    """
    wrapped = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[filter_by_level, render_to_log_args_and_kwargs],
        wrapper_class=BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("BoundLogger", wrapped)
