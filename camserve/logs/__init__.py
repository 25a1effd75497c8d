"""How all processes log: one line an event, to standard error, for people or as JSON.

Loggers are the standard library's, so that whoever uses camserve as a library hears of it as of any
other; structlog gives them fields, and formats what every library of the process says.
"""

from __future__ import annotations

from camserve.logs.configuration import adopt_loggers, configure_logs, flush_logs
from camserve.logs.loggers import get_logger

__all__ = ["adopt_loggers", "configure_logs", "flush_logs", "get_logger"]
