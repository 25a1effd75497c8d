"""The story of a batch: claimed, begun, computed while the one before it returns and the next one
is prepared, and returned itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from camserve.broker import Begun, Claim, WorkerQueue
from camserve.errors import QueueUnavailable
from workers.ahead import FIRST_LOOK_S, Ahead
from workers.computing import GIVE_WAY_S, Computing
from workers.device_thread import DeviceThread
from workers.failures import failure_of
from workers.held_jobs import HeldJobs
from workers.job_traces import done_together
from workers.models import ResidentModel
from workers.open_models import OpenModels
from workers.pacing import OUTAGE_PAUSE_S, Pacing
from workers.portions import Work
from workers.residency import Residency
from workers.side_tasks import SideTasks

__all__ = ["Batches"]

BLOCK_S = 0.5  # longest wait for work before the loop looks whether it should stop


class Batches:
    """One per worker. beside: what runs beside, and where jobs wait for their model."""

    def __init__(
        self,
        queue: WorkerQueue,
        models: OpenModels,
        ahead: Ahead,
        computing: Computing,
        *,
        held: HeldJobs,
        residency: Residency,
        thread: DeviceThread,
        pacing: Pacing,
        beside: SideTasks,
        max_batch: int,
    ) -> None:
        self._queue = queue
        self._models = models
        self._ahead = ahead
        self._computing = computing
        self._held = held
        self._residency = residency
        self._thread = thread
        self._pacing = pacing
        self._beside = beside
        self._max_batch = max_batch

    async def turn(self) -> None:
        """One round. All claims of a round are of one model."""
        await self._thread.wait_until_free()  # meanwhile a full batch may gather in the queue
        try:
            models = await self._models.now()
            if not models:
                await self._pacing.pause(BLOCK_S)
                return
            claims = await self._queue.claim(
                models,
                self._max_batch,
                BLOCK_S,
                # what may kill this process must not take along the jobs whose model is loading
                redelivered=not self._beside,
            )
        except QueueUnavailable:
            await self._pacing.pause(OUTAGE_PAUSE_S)
            return
        is_alone = any(claim.redelivered for claim in claims)
        if is_alone:
            await self._computing.returned()  # nor results that are on their way
        if claims:
            begun = await self._begin(claims)
            staged = {claim.job_id: self._ahead.take(claim.job_id) for claim in claims}
            for one in begun:
                self._held.take(one, staged[one.job_id])
            await self._serve(begun, is_alone=is_alone)
        if is_alone:
            await self._computing.returned()
            await self._pacing.unless_stopped(self._beside.done())

    async def _begin(self, claims: Sequence[Claim]) -> list[Begun]:
        """Begin through an outage too: else what is claimed would wait until its lease runs out."""
        while not self._pacing.is_stopping:
            try:
                return await self._queue.begin_batch(claims, self._ahead.payloads)
            except QueueUnavailable:
                await self._pacing.pause(OUTAGE_PAUSE_S)
        with contextlib.suppress(QueueUnavailable):
            await self._queue.release(claims)
        return []

    async def _serve(self, begun: Sequence[Begun], *, is_alone: bool) -> None:
        jobs = [(held, await self._held.read(held)) for held in begun]
        loads = [held for held, job in jobs if job is not None and job.kind == "load"]
        self._held.announce(loads)
        for held in loads:
            self._beside.start(self._serve_load(held))
        work = [(held, job) for held, job in jobs if job is not None and job.kind != "load"]
        if not work:
            return
        model = work[0][0].model
        resident = self._residency.get(model)
        if resident is None:
            # loading may take minutes: jobs of other models go on meanwhile
            self._held.announce([held for held, _ in work])
            self._beside.start(self._load_then_compute(model, work))
            return
        with self._residency.in_use(model):
            wanted = await self._held.drop_outdated(resident.card, work)
            if wanted:
                await self._compute(resident, wanted, is_alone=is_alone)

    async def _compute(self, resident: ResidentModel, work: Work, *, is_alone: bool) -> None:
        """Compute jobs of one model, and prepare those that come after them.

        Not while they may take long, or take this process along: what is claimed ahead would wait
        for them.
        """
        held = [begun for begun, _ in work]
        if is_alone:
            self._held.announce(held)
            await self._computing.run(resident, work)
            return
        computing = asyncio.create_task(self._computing.run(resident, work))
        await self._thread.has_started_next(GIVE_WAY_S)
        try:
            if sum(begun.claim.weight for begun in held) < self._max_batch:
                # it took all that waited, and may be done in a moment: what else is to be done
                # would hold the interpreter, which the thread that computes needs again and again
                await self._pacing.until(computing, FIRST_LOOK_S)
            self._held.announce(held)
            if self._computing.is_short(work):
                await self._ahead.prepare(computing)
        finally:
            await computing

    async def _serve_load(self, begun: Begun) -> None:
        try:
            await self._residency.make_resident(begun.model)
        except Exception as error:  # noqa: BLE001 - a job must not be left without an answer
            await self._held.commit(begun, failure_of(error, f"loading {begun.model}"))
        else:
            await self._held.commit(begun, b"")

    async def _load_then_compute(self, model: str, work: Work) -> None:
        with self._residency.in_use(model):
            held = [begun for begun, _ in work]
            try:
                with done_together("load", "load", model, self._held.traces(held)):
                    resident = await self._residency.load(model)
            except Exception as error:  # noqa: BLE001 - a job must not be left without an answer
                failure = failure_of(error, f"loading {model}")
                await self._held.commit_all(held, [failure] * len(work))
            else:
                wanted = await self._held.drop_unwanted(work)
                await self._computing.run(
                    resident, await self._held.drop_outdated(resident.card, wanted)
                )
                await self._computing.returned()
