"""A worker's life: claim a batch, explain it, commit; meanwhile keep leases and heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

from pydantic import ValidationError

from camserve.broker import Begun, Registry, WorkerQueue
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.errors import CamserveError, ErrorCode, QueueUnavailable
from camserve.settings import Settings
from workers.compute import ComputeJob, Outcome, explain_jobs
from workers.models import ResidentModel
from workers.presence import Presence
from workers.repository import Repository
from workers.residency import Residency

__all__ = ["HUNG_EXIT_CODE", "WorkerLoop"]

logger = logging.getLogger(__name__)

BLOCK_S = 0.5  # longest wait for work before the loop looks whether it should stop
HEARTBEAT_S = 2.0
OUTAGE_PAUSE_S = 0.5
HUNG_EXIT_CODE = 70


class WorkerLoop:
    """One worker on one device. `run` returns after `stop`, when nothing is in its hands."""

    def __init__(
        self,
        *,
        queue: WorkerQueue,
        registry: Registry,
        repository: Repository,
        settings: Settings,
        worker: str,
        device: str,
    ) -> None:
        self._queue = queue
        self._repository = repository
        self._settings = settings
        self._worker = worker
        self._device = device
        self._presence = Presence(
            registry, repository, worker=worker, device=device, batch_limit=settings.max_batch
        )
        self._residency = Residency(repository.entries, device, settings, self._presence.publish)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._held: dict[str, Begun] = {}
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more; what is running is finished."""
        self._stopping.set()

    async def run(self) -> None:
        await self._persist(self._presence.publish_all)
        background = [
            asyncio.create_task(self._every(HEARTBEAT_S, self._heartbeat)),
            asyncio.create_task(self._every(self._settings.lease_s / 3, self._extend)),
            asyncio.create_task(self._every(self._settings.lease_s / 2, self._reclaim)),
        ]
        try:
            await self._preload()
            while not self._stopping.is_set():
                await self._turn()
            await self._drain()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self._compute.shutdown(wait=False)

    async def _preload(self) -> None:
        if self._settings.preload == "local":
            for entry in self._repository.entries.values():
                if entry.is_local and not self._stopping.is_set():
                    try:
                        await self._residency.load(entry.name)
                    except CamserveError:
                        continue  # its published card says why
        self._presence.warm = True
        await self._persist(self._heartbeat)
        logger.info(
            "worker ready on %s: %s",
            self._device,
            ", ".join(self._residency.resident) or "no model",
        )

    async def _turn(self) -> None:
        """One round: claim, begin, explain, commit. All claims of a round are of one model."""
        models = [name for name in self._repository.names if name not in self._residency.loading]
        if not models:
            await self._pause(BLOCK_S)
            return
        try:
            claims = await self._queue.claim(models, self._settings.max_batch, BLOCK_S)
            begun = await self._queue.begin_batch(claims) if claims else []
        except QueueUnavailable:
            await self._pause(OUTAGE_PAUSE_S)
            return
        self._held |= {held.job_id: held for held in begun}
        jobs = [(held, await self._read(held)) for held in begun]
        for held, job in jobs:
            if job is not None and job.kind == "load":
                self._aside(self._serve_load(held))
        work = [(held, job) for held, job in jobs if job is not None and job.kind == "explain"]
        if not work:
            return
        model = work[0][1].model
        resident = self._residency.get(model)
        if resident is None:
            # loading may take minutes: jobs of other models go on meanwhile
            self._aside(self._load_then_explain(model, work))
        else:
            await self._explain(resident, work)

    async def _read(self, begun: Begun) -> Job | None:
        try:
            return Job.model_validate_json(begun.document)
        except ValidationError:
            logger.exception("job %s has a document that cannot be read", begun.job_id)
            failure = FailureMessage(code=ErrorCode.INTERNAL, detail="unreadable job document")
            await self._commit(begun, failure)
            return None

    def _aside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    async def _serve_load(self, begun: Begun) -> None:
        try:
            async with asyncio.timeout(self._settings.load_time_limit_s):
                await self._residency.load(begun.model)
        except TimeoutError:
            self._die_hung("loading", begun.model)
        except CamserveError as error:
            await self._commit(begun, FailureMessage.of(error))
        else:
            await self._commit(begun, b"")

    async def _load_then_explain(self, model: str, work: Sequence[tuple[Begun, Job]]) -> None:
        try:
            async with asyncio.timeout(self._settings.load_time_limit_s):
                resident = await self._residency.load(model)
        except TimeoutError:
            self._die_hung("loading", model)
        except CamserveError as error:
            failure = FailureMessage.of(error)
            await asyncio.gather(*(self._commit(held, failure) for held, _ in work))
        else:
            await self._explain(resident, work)

    async def _explain(self, model: ResidentModel, work: Sequence[tuple[Begun, Job]]) -> None:
        call = partial(
            explain_jobs,
            model,
            [ComputeJob(held.job_id, job, held.payload) for held, job in work],
            max_batch=self._settings.max_batch,
            worker=self._worker,
            device=self._device,
        )
        clock = asyncio.get_running_loop()
        started_s = clock.time()
        try:
            async with asyncio.timeout(self._settings.job_time_limit_s):
                outcomes = await clock.run_in_executor(self._compute, call)
        except TimeoutError:
            self._die_hung("explaining", model.card.name)
        self._presence.learn(model.card.name, (clock.time() - started_s) * 1000)
        await asyncio.gather(*map(self._commit, [held for held, _ in work], outcomes))

    async def _commit(self, begun: Begun, outcome: Outcome) -> None:
        """Finish or fail the job; the queue refuses if another worker owns it by now."""
        try:
            if isinstance(outcome, bytes):
                committed = await self._queue.finish(begun, outcome)
            else:
                committed = await self._queue.fail(begun, outcome.model_dump_json().encode())
            if not committed:
                logger.warning("job %s: the result is stale and was refused", begun.job_id)
        except QueueUnavailable:
            logger.warning("job %s: Redis is away; it will be done again", begun.job_id)
        finally:
            self._held.pop(begun.job_id, None)

    def _die_hung(self, doing: str, model: str) -> NoReturn:
        # a hung kernel cannot be cancelled: leaving frees the device, and the jobs are redelivered
        logger.error("%s %s outlasted its time limit: the worker restarts", doing, model)
        os._exit(HUNG_EXIT_CODE)

    async def _extend(self) -> None:
        await self._queue.extend(list(self._held.values()))

    async def _reclaim(self) -> None:
        # back into the queue, for whoever has room: this worker claims when it has
        await self._queue.reclaim(self._repository.names, limit=0)

    async def _heartbeat(self) -> None:
        await self._presence.heartbeat(self._residency.resident)

    async def _drain(self) -> None:
        """Finish what runs beside, and hand back what was claimed but has not begun."""
        logger.info("worker on %s is draining", self._device)
        if self._side_tasks:
            await asyncio.wait(self._side_tasks, timeout=self._settings.drain_s)
        try:
            await self._queue.release()
            await self._presence.leave()
        except QueueUnavailable:
            logger.warning("Redis is away: unstarted jobs are handed on after their lease")

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except QueueUnavailable:
                logger.warning("Redis cannot be reached")
            await asyncio.sleep(period_s)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat until Redis answers, or until told to stop."""
        while not self._stopping.is_set():
            try:
                await work()
            except QueueUnavailable:
                await self._pause(OUTAGE_PAUSE_S)
            else:
                return

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake at once when told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
