"""What a worker measures of its work: added to the totals that every front end tells."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from camserve import measures
from camserve.broker import Totals
from camserve.measures import Tally

__all__ = ["WorkerMetrics"]


class WorkerMetrics:
    """One per worker. All but `tell` only notes, in the event loop's thread.

    What it has not told when it is killed is lost: half a second's work.
    """

    def __init__(self, totals: Totals, device: str) -> None:
        self._totals = totals
        self._place = (socket.gethostname(), device)
        self._tally = Tally()
        self._untold: tuple[str, Mapping[str | None, Mapping[str, float]]] | None = None

    def busy(self, seconds: float) -> None:
        """The device has computed for so long."""
        self._tally.count(measures.DEVICE_BUSY_SECONDS, *self._place, model=None, by=seconds)

    def computed(self, model: str, kind: str, *, inputs: int, seconds: float) -> None:
        """Jobs of one kind were computed together. inputs: of all of them."""
        self._tally.observe(measures.COMPUTE_SECONDS, seconds, kind, model=model)
        self._tally.observe(measures.BATCH_INPUTS, inputs, kind, model=model)

    def ran_out_of_memory(self, model: str, times: int) -> None:
        """The device's memory did not hold a batch, so many times."""
        if times:
            self._tally.count(measures.OUT_OF_MEMORY, model=model, by=times)

    def looked_up_activations(self, model: str, *, hits: int, misses: int) -> None:
        """So many inputs ran the head alone, and so many might have."""
        for result, count in (("hit", hits), ("miss", misses)):
            if count:
                self._tally.count(measures.ACTIVATION_LOOKUPS, result, model=model, by=count)

    @contextmanager
    def loading(self, model: str, began_s: float) -> Iterator[None]:
        """Inside, the load of a model ends, or raises why it cannot be loaded. began_s: by
        `time.monotonic`."""
        try:
            yield
        except Exception:
            self._tally.count(measures.LOADS_FAILED, model=model)
            raise
        self._tally.observe(measures.LOAD_SECONDS, time.monotonic() - began_s, model=model)

    def evicted(self, models: Iterable[str]) -> None:
        """They made room for another one."""
        for model in models:
            self._tally.count(measures.EVICTIONS, model=model)

    def came_late(self, model: str) -> None:
        """A result was refused."""
        self._tally.count(measures.LATE_RESULTS, model=model)

    async def tell(self) -> None:
        """Add what was noted since. Raises QueueUnavailable; it is then told by the next call, once
        in all although nobody knows whether this one came through."""
        if self._untold is None:
            taken = self._tally.take()
            if not taken:
                return
            self._untold = secrets.token_hex(8), taken
        nonce, fields = self._untold
        await self._totals.add(fields, nonce)
        self._untold = None
