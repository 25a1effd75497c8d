"""The failures that the queue itself writes into a job, as `FailureMessage` JSON."""

from __future__ import annotations

import json
from typing import Final

from camserve.errors import ErrorCode

__all__ = ["DEAD", "EXPIRED", "PAYLOAD_LOST"]


def _failure(code: ErrorCode, detail: str) -> str:
    return json.dumps({"code": code, "detail": detail})


EXPIRED: Final = _failure(
    ErrorCode.DEADLINE_EXCEEDED, "the deadline passed before the explanation was made"
)
DEAD: Final = _failure(
    ErrorCode.DEAD_LETTERED,
    "given up: the worker vanished in every attempt; the request may be what kills it",
)
PAYLOAD_LOST: Final = _failure(
    ErrorCode.INTERNAL, "the server dropped the payload of the job; ask again"
)
