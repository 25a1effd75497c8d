"""What clients saw, and what was done to the service meanwhile. Times are s since the epoch."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TERMINAL", "Call", "Fault", "Observation", "Record", "Submission"]

TERMINAL = ("succeeded", "failed", "canceled", "expired", "dead")


@dataclass
class Call:
    """One request of a client, and how it ended; `status` None: not at all, or its line broke."""

    method: str
    front: str
    sent_s: float
    patience_s: float
    """How long the server may take to answer, by what it promises."""
    number: int | None = None
    ended_s: float | None = None
    status: int | None = None
    retry_after: str | None = None
    job_id: str | None = None
    state: str | None = None
    code: str | None = None
    detail: str | None = None
    broken: str | None = None
    """The error of the connection, if there was no answer."""


@dataclass
class Submission:
    """One job that a client wants, over however many requests."""

    number: int
    deed: int
    idempotency_key: str | None
    deadline_s: float | None
    is_sync: bool
    webhook: bool = False
    kind: str = "explain"
    cancel_answer: tuple[str, int] | None = None
    """State and attempts, as DELETE answered."""
    calls: list[Call] = field(default_factory=list)

    @property
    def job_ids(self) -> list[str]:
        """All ids that it was answered with, in the order of the answers."""
        return list(dict.fromkeys(call.job_id for call in self.calls if call.job_id))

    @property
    def accepted_s(self) -> float | None:
        """When it was first answered with an id."""
        times = [call.ended_s for call in self.calls if call.job_id and call.ended_s]
        return min(times, default=None)


@dataclass(frozen=True)
class Observation:
    """A job as a client saw it, by GET or in an event."""

    job_id: str
    sent_s: float
    seen_s: float
    state: str
    attempts: int
    results: tuple[tuple[float, ...], ...] = ()
    """Score, minimum and maximum of the map, of each result."""
    source: str = "get"

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass
class Fault:
    """What was done to the service. until_s: infinite while it lasts."""

    name: str
    at_s: float
    until_s: float = math.inf
    loses_data: bool = False
    """What Redis was told a moment ago may be gone, or all."""
    is_outage: bool = False
    """Some process cannot reach Redis, or Redis takes no writes."""
    breaks: str | None = None
    """The front end whose connections break."""

    def overlaps(self, from_s: float, to_s: float) -> bool:
        return self.at_s <= to_s and self.until_s >= from_s


@dataclass
class Record:
    """Filled by clients and scenes, read by the checker."""

    submissions: dict[int, Submission] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    """The deepest that each model's queue was seen."""
    webhooks: Counter[str] = field(default_factory=Counter)
    """How often a receiver was told of the end of each job."""
    _numbers: int = 0

    def new_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def begin_call(self, method: str, front: str, patience_s: float, **about: Any) -> Call:
        call = Call(method, front, time.time(), patience_s, **about)
        self.calls.append(call)
        return call

    def see_depth(self, model: str, depth: int) -> None:
        self.depths[model] = max(depth, self.depths.get(model, 0))

    @contextmanager
    def fault(self, name: str, **about: Any) -> Iterator[Fault]:
        """Lasts as long as the block."""
        fault = Fault(name, time.time(), **about)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.until_s = time.time()

    def losses(self, from_s: float, to_s: float) -> int:
        """How often data may have been lost in that time."""
        return sum(one.loses_data and one.overlaps(from_s, to_s) for one in self.faults)

    def outage_until(self, from_s: float, to_s: float) -> float | None:
        """The end of the last outage that touches that time; None if there was none."""
        ends = [one.until_s for one in self.faults if one.is_outage and one.overlaps(from_s, to_s)]
        return max(ends, default=None)
