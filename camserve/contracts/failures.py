"""A failure on its way from one process to another."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from camserve.contracts.base import Message
from camserve.errors import CamserveError, ErrorCode, Failure

__all__ = ["FailureMessage"]


class FailureMessage(Message):
    """An error by its code, with what helps to mend it. Never a traceback."""

    code: ErrorCode
    detail: str
    extensions: dict[str, Any] = Field({}, description="Members that help to mend the request.")

    @classmethod
    def of(cls, error: CamserveError) -> Self:
        return cls(code=error.error_code, detail=str(error), extensions=error.extensions)

    def to_error(self) -> Failure:
        return Failure(self.code, self.detail, **self.extensions)
