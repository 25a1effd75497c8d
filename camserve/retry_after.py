"""`Retry-After` (RFC 9110, 10.2.3), as servers send it to us: seconds, or a date."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["seconds_of"]

_DIGITS: Final = 9  # thirty years: more is never meant, and a number may be of any length


def seconds_of(text: str) -> float | None:
    """From now on, negative for a date that has passed; None for what is neither."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_DIGITS])
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the second of too many digits
        return None
    if until.tzinfo is None:  # `-0000`: a time of UTC, from nobody knows where
        until = until.replace(tzinfo=UTC)
    return (until - datetime.now(UTC)).total_seconds()
