"""A look at a job that may have ended: its record and a small result in one round trip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from camserve.broker import keys
from camserve.broker.records import JobRecord
from camserve.broker.scripts import Command

__all__ = ["look", "seen"]

LARGEST: Final = 16_384
"""Bytes of a result that is read along; of a larger one so much is read in vain, and not more: what
takes its time is read by who needs it, in the time that he has."""


def look(model: str, job_id: str) -> list[Command]:
    """The record first: who has succeeded by then has his result."""
    return [
        ("HGETALL", keys.job(model, job_id)),
        ("GETRANGE", keys.result(model, job_id), 0, LARGEST),
    ]


def seen(job_id: str, model: str, values: Mapping[bytes, bytes], result: bytes) -> JobRecord | None:
    """What the replies say; None if there is no such job."""
    if not values:
        return None
    is_whole = 0 < len(result) <= LARGEST
    return JobRecord.from_hash(job_id, model, values, result if is_whole else None)
