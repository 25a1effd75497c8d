"""What the queue hands out: read-only records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias, cast

from camserve.broker import keys
from camserve.contracts.states import TERMINAL, State

__all__ = ["Begun", "Claim", "DeliveryRecord", "Enqueued", "JobRecord", "Lookup", "Priority"]


DeliveryState: TypeAlias = Literal["pending", "delivered", "failed"]
Lookup: TypeAlias = Literal["hit", "miss", "bypass"]
"""What came of the look for a result of the same computation; `bypass`: there was to be none."""


class Priority(StrEnum):
    """Interactive jobs go before bulk ones."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class Enqueued:
    """Which job answers the request: a new one, or the one that already did (`duplicate`)."""

    job_id: str
    duplicate: bool
    record: JobRecord | None = None
    """Of a job that an earlier result answered at once, with that result."""


@dataclass(frozen=True)
class DeliveryRecord:
    """How far the news of a job's end have got. Times are ms since the epoch."""

    state: DeliveryState
    """`pending` also of an open job; `failed`: given up."""
    attempts: int
    due_ms: int | None
    """When the next attempt is due; None while the job is open, and once it is settled."""
    outcome: bytes | None
    """Of the last attempt, as the front end noted it."""


@dataclass(frozen=True)
class JobRecord:
    """A job as the server knows it. Times are ms since the epoch by the server's clock."""

    id: str
    model: str
    state: State
    attempts: int
    """How often it began, 0 to max_attempts."""
    priority: Priority
    created_ms: int
    started_ms: int | None
    """When the latest attempt began."""
    completed_ms: int | None
    deadline_ms: int
    cancel_requested: bool
    document: bytes
    """What the front end stored with it."""
    failure: bytes | None
    """JSON with `code` and `detail` when failed, expired or dead."""
    progress: tuple[int, int] | None
    """Of the running attempt: units done and units in all, if its worker told."""
    owner: str | None
    """Token of the latest attempt."""
    consumer: str | None
    """Worker of the latest attempt."""
    delivery: DeliveryRecord | None
    """None if nobody is to be told of its end."""
    lookup: Lookup | None
    """Whether an earlier result answered it; None where no results are kept."""
    is_stored: bool
    """Whether its own result was kept for later jobs."""
    result: bytes | None = field(default=None, compare=False, repr=False)
    """Of a job that has succeeded, where it came along; else `JobReader.result` has it."""

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @classmethod
    def from_hash(
        cls, job_id: str, model: str, values: Mapping[bytes, bytes], result: bytes | None = None
    ) -> JobRecord:
        def number(name: bytes) -> int | None:
            return int(values[name]) if name in values else None

        def text(name: bytes) -> str | None:
            return values[name].decode() if name in values else None

        return cls(
            id=job_id,
            model=model,
            state=State(values[b"state"].decode()),
            attempts=int(values[b"attempts"]),
            priority=Priority(values[b"priority"].decode()),
            created_ms=int(values[b"created_ms"]),
            started_ms=number(b"started_ms"),
            completed_ms=number(b"completed_ms"),
            deadline_ms=int(values[b"deadline_ms"]),
            cancel_requested=b"cancel" in values,
            document=values[b"document"],
            failure=values.get(b"failure"),
            progress=_progress(values.get(b"progress")),
            owner=text(b"owner"),
            consumer=text(b"consumer"),
            delivery=DeliveryRecord(
                state=cast("DeliveryState", values[b"delivery"].decode()),
                attempts=number(b"delivery_attempts") or 0,
                due_ms=number(b"delivery_due_ms"),
                outcome=values.get(b"delivery_outcome"),
            )
            if b"delivery" in values
            else None,
            lookup=cast("Lookup | None", text(b"lookup")),
            is_stored=b"stored" in values,
            result=result if values[b"state"] == b"succeeded" else None,
        )


def _progress(value: bytes | None) -> tuple[int, int] | None:
    if value is None:
        return None
    done, total = value.split(b"/")
    return int(done), int(total)


@dataclass(frozen=True)
class Claim:
    """A job that is leased to this worker and has not begun."""

    job_id: str
    model: str
    lane: str
    entry: str
    weight: int = 1
    """How much of a batch it takes."""
    consumer: str = field(default="", compare=False, repr=False)
    """The name by which the worker holds it until it begins."""
    token: str = field(default_factory=lambda: secrets.token_hex(16), compare=False, repr=False)
    """Of the attempt that begins from it, however often that is tried: a call that was given up
    in an outage may still arrive after it."""

    @property
    def redelivered(self) -> bool:
        """An earlier attempt vanished: it runs alone, lest it takes a batch down with it."""
        return keys.rank(self.lane) == keys.REDELIVERED


@dataclass(frozen=True)
class Begun:
    """A job that this worker runs. Whoever begins it later makes `token` stale."""

    job_id: str
    token: str
    payload: bytes = field(repr=False)
    document: bytes = field(repr=False)
    attempts: int
    """Which attempt this is, from 1."""
    deadline_ms: int
    """Epoch, by the server's clock."""
    redelivered: bool
    claim: Claim = field(repr=False)
    begun_s: float = field(repr=False)
    """When it began, by time.monotonic()."""
    queued_ms: int = field(repr=False)
    """How long it then had waited in its lane, by the server's clock."""

    @property
    def model(self) -> str:
        return self.claim.model
