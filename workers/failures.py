"""How an exception becomes what the caller is told."""

from __future__ import annotations

import secrets

from camserve.contracts.failures import FailureMessage
from camserve.engine import is_out_of_memory
from camserve.errors import CamserveError, ErrorCode, TooLargeForDevice, one_line
from camserve.logs import get_logger

__all__ = ["failure_of"]

logger = get_logger(__name__)


def failure_of(error: Exception, what: str) -> FailureMessage:
    """An error of ours in its own words; of any other, only its kind and where to look for it.

    The traceback stays in the log, under a number that the caller gets too.
    """
    if isinstance(error, CamserveError):
        return FailureMessage.of(error)
    if is_out_of_memory(error):
        logger.warning("%s ran out of memory: %s", what, one_line(error))
        return FailureMessage.of(
            TooLargeForDevice(
                "there is not enough memory for it: send a smaller input, or fewer of them at once"
            )
        )
    error_id = secrets.token_hex(6)
    logger.error("unexpected error", doing=what, error_id=error_id, exc_info=error)
    return FailureMessage(
        code=ErrorCode.INTERNAL,
        detail=f"the model raised {type(error).__name__}; look for {error_id} in the worker's log",
        extensions={"error_id": error_id},
    )
