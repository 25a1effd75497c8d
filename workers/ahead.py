"""The batch that comes next: claimed, fetched and read while the device computes the one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from camserve.broker import Claim, WorkerQueue
from camserve.contracts.jobs import WHOLE_PASS
from camserve.errors import QueueUnavailable
from workers.pacing import Pacing
from workers.staging import Staged, Staging

__all__ = ["FIRST_LOOK_S", "Ahead"]

FIRST_LOOK_S = 0.005  # after a claim or a look that found no full batch; then twice as long
HOLD_S = 5.0  # longest time that jobs are held for a device which does not get free


class Ahead:
    """One per worker: the jobs of one batch, none of which has begun.

    models: those whose jobs may be claimed now; raises QueueUnavailable. Jobs held here are leased,
    and still in the queue for everybody else: an idle worker is given them, a more urgent job goes
    before them, and no attempt of theirs counts if this worker dies.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        staging: Staging,
        pacing: Pacing,
        models: Callable[[], Awaitable[Sequence[str]]],
        *,
        max_batch: int,
    ) -> None:
        self._queue = queue
        self._staging = staging
        self._pacing = pacing
        self._models = models
        self._max_batch = max_batch
        self._payloads: dict[str, bytes] = {}
        self._staged: dict[str, Staged] = {}
        self._held_since_s: float | None = None

    @property
    def payloads(self) -> dict[str, bytes]:
        """Those that were fetched, by the ids of their jobs."""
        return self._payloads

    def is_ready(self) -> bool:
        """Whether there is something to begin at once."""
        return bool(self._payloads)

    def take(self, job_id: str) -> Staged | None:
        """The payload of a job that has begun, if it was read; it is held no longer."""
        self._payloads.pop(job_id, None)
        self._held_since_s = None
        return self._staged.pop(job_id, None)

    async def prepare(self, computing: asyncio.Future[None]) -> None:
        """Gather a batch until the device is free; what came by then is topped up by `claim`.

        An outage ends it; what is held then waits like everything else. Hands all back when the
        worker is told to stop, or if the device does not get free for HOLD_S.
        """
        wait_s = FIRST_LOOK_S
        try:
            while not computing.done():
                if self._pacing.is_stopping or self._left_s() <= 0:
                    await self._hand_back()
                    return
                claims = await self._queue.claim_ahead(await self._models(), self._max_batch)
                await self._read(claims)
                if sum(claim.weight for claim in claims) >= self._max_batch:
                    wait_s = HOLD_S
                await self._pacing.until(computing, min(wait_s, self._left_s()))
                wait_s *= 2
        except QueueUnavailable:
            return

    async def _read(self, claims: Sequence[Claim]) -> None:
        held = {claim.job_id for claim in claims}
        if self._held_since_s is None and held:
            self._held_since_s = time.monotonic()
        self._payloads = {one: self._payloads[one] for one in self._payloads if one in held}
        self._staged = {one: self._staged[one] for one in self._staged if one in held}
        new = [claim for claim in claims if claim.job_id not in self._payloads]
        if not new:
            return
        payloads = await self._queue.payloads(new)
        found = {
            claim: payload
            for claim, payload in zip(new, payloads, strict=True)
            if payload is not None
        }
        self._payloads |= {claim.job_id: payload for claim, payload in found.items()}
        # one of many passes moves its inputs as it needs them
        light = {claim.job_id: found[claim] for claim in found if claim.weight < WHOLE_PASS}
        self._staged |= await asyncio.to_thread(self._read_all, light)

    def _read_all(self, payloads: Mapping[str, bytes]) -> dict[str, Staged]:
        read = {job_id: self._staging.read(payload) for job_id, payload in payloads.items()}
        return {job_id: staged for job_id, staged in read.items() if staged is not None}

    async def _hand_back(self) -> None:
        self._payloads, self._staged, self._held_since_s = {}, {}, None
        await self._queue.release()

    def _left_s(self) -> float:
        """How much longer they may be held."""
        if self._held_since_s is None:
            return HOLD_S
        return self._held_since_s + HOLD_S - time.monotonic()
