"""A worker's life: claim a batch, compute it, commit; meanwhile keep leases and heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence

from camserve.broker import (
    Begun,
    Claim,
    CommandReader,
    Registry,
    WorkerQueue,
)
from camserve.errors import CamserveError, QueueUnavailable
from camserve.settings import Settings
from workers.computing import Computing
from workers.device_thread import DeviceThread
from workers.failures import failure_of
from workers.held_jobs import HeldJobs
from workers.job_traces import done_together
from workers.metrics import WorkerMetrics
from workers.obedience import Obedience
from workers.optimizing import Optimizing
from workers.pacing import OUTAGE_PAUSE_S, Pacing, end
from workers.portions import Work
from workers.presence import Presence
from workers.proof import Proof
from workers.quarantine import Quarantine
from workers.repository import Repository
from workers.residency import Residency
from workers.upkeep import Upkeep

__all__ = ["WorkerLoop"]

logger = logging.getLogger(__name__)

BLOCK_S = 0.5  # longest wait for work before the loop looks whether it should stop
HEARTBEAT_S = 2.0
LOOK_S = 2.0  # how often the model repository is looked at
PROGRESS_S = 0.5
WANTED_S = 0.5  # how often it is asked whether what runs is still wanted
TELL_S = 0.5  # how much of what a worker measured is lost with it


class WorkerLoop:
    """One worker on one device. `run` returns after `stop`, when nothing is in its hands."""

    def __init__(
        self,
        *,
        queue: WorkerQueue,
        registry: Registry,
        commands: CommandReader,
        repository: Repository,
        quarantine: Quarantine,
        settings: Settings,
        metrics: WorkerMetrics,
        worker: str,
        device: str,
    ) -> None:
        self._queue = queue
        self._repository = repository
        self._quarantine = quarantine
        self._settings = settings
        self._device = device
        self._metrics = metrics
        self._thread = DeviceThread(settings.job_time_limit_s, metrics, device)
        self._proof = Proof(self._thread, device)
        self._presence = Presence(
            registry,
            repository,
            quarantine,
            self._proof,
            self._thread,
            metrics=metrics,
            worker=worker,
            device=device,
        )
        self._residency = Residency(
            repository, device, settings, self._presence.publish, quarantine, metrics=metrics
        )
        self._upkeep = Upkeep(
            repository, self._residency, self._presence, quarantine, settings, aside=self._aside
        )
        self._optimizing = Optimizing(self._residency, settings, device)
        self._held = HeldJobs(queue, metrics)
        self._computing = Computing(
            self._thread,
            self._held,
            self._presence,
            self._proof,
            metrics,
            settings=settings,
            worker=worker,
            device=device,
            make_room=self._residency.make_room,
        )
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._pacing = Pacing()
        self._one_heartbeat = asyncio.Lock()
        self._obedience = Obedience(
            commands,
            repository.knows,
            self._pacing,
            load=self._renew,
            unload=self._residency.unload,
            heartbeat=self._heartbeat,
            aside=self._aside,
        )

    def stop(self) -> None:
        """Claim nothing more; what is running is finished."""
        if not self._pacing.is_stopping:
            logger.info("worker on %s is stopping: what runs is finished first", self._device)
        self._pacing.stop()

    async def run(self) -> None:
        await self._pacing.persist(self._obedience.start)
        await self._pacing.persist(self._presence.publish_all)

        # a job claimed by a worker that died is put back into the queue, for whoever has room
        async def reclaim() -> None:
            await self._queue.reclaim(self._models_in_charge, limit=0)

        leases = asyncio.create_task(
            self._pacing.every(self._settings.lease_s / 3, self._held.extend)
        )
        heartbeat_s = min(HEARTBEAT_S, self._settings.worker_stale_s / 4)
        others = [
            asyncio.create_task(self._pacing.every(heartbeat_s, self._heartbeat)),
            asyncio.create_task(self._proof.keep(self._settings.warm_up_every_s)),
            asyncio.create_task(self._pacing.every(PROGRESS_S, self._held.report)),
            asyncio.create_task(self._pacing.every(WANTED_S, self._held.look)),
            asyncio.create_task(self._pacing.every(TELL_S, self._metrics.tell)),
            asyncio.create_task(self._pacing.every(self._settings.lease_s / 2, reclaim)),
            asyncio.create_task(self._pacing.every(LOOK_S, self._look)),
        ]
        try:
            await self._pacing.unless_stopped(self._preload())
            # not before: what it was told to unload would be loaded after all
            others.append(asyncio.create_task(self._obedience.listen()))
            while not self._pacing.is_stopping:
                await self._turn()
            await end(*others)  # a late heartbeat would put the worker back on the list
            await self._drain()
        finally:
            await end(leases, *others)
            self._thread.close()
            self._upkeep.close()

    async def _preload(self) -> None:
        # raises on a device that cannot explain: such a worker ends before it takes a job
        await self._proof.give(self._settings.load_time_limit_s)
        suspects = []
        for entry in list(self._repository.entries.values()):
            if self._upkeep.loads_at_once(entry):
                if self._quarantine.is_suspect(entry):
                    suspects.append(entry.name)  # it must not keep the others waiting
                    continue
                await self._try(entry.name)
        for name in suspects:
            self._aside(self._try(name))
        self._presence.warm = True
        await self._pacing.persist(self._heartbeat)
        logger.info(
            "worker ready on %s: %s",
            self._device,
            ", ".join(self._residency.resident) or "no model loaded yet",
        )

    async def _turn(self) -> None:
        """One round: claim, begin, compute, commit. All claims of a round are of one model."""
        await self._thread.wait_until_free()  # meanwhile a full batch may gather in the queue
        try:
            models = await self._open_models()
            if not models:
                await self._pacing.pause(BLOCK_S)
                return
            claims = await self._queue.claim(
                models,
                self._settings.max_batch,
                BLOCK_S,
                # what may kill this process must not take along the jobs whose model is loading
                redelivered=not self._side_tasks,
            )
        except QueueUnavailable:
            await self._pacing.pause(OUTAGE_PAUSE_S)
            return
        is_alone = any(claim.redelivered for claim in claims)
        if is_alone:
            await self._computing.returned()  # what may kill this process must not take it along
        begun = await self._begin(claims) if claims else []
        self._held.take(begun)
        jobs = [(held, await self._held.read(held)) for held in begun]
        for held, job in jobs:
            if job is not None and job.kind == "load":
                self._aside(self._serve_load(held))
        work = [(held, job) for held, job in jobs if job is not None and job.kind != "load"]
        if work:
            await self._start(work)
        if is_alone:
            await self._computing.returned()
            await self._pacing.unless_stopped(self._side_tasks_done())

    async def _open_models(self) -> list[str]:
        """The models whose jobs are claimed now: all but those that load.

        While a redelivered job waits for loads to end, no other one begins: else loads that follow
        each other would keep it waiting for ever. Raises QueueUnavailable.
        """
        names = self._models_in_charge
        models = [name for name in names if name not in self._residency.loading]
        if self._side_tasks and await self._queue.redelivered_waits(names):
            return [name for name in models if name in self._residency.resident]
        return models

    @property
    def _models_in_charge(self) -> tuple[str, ...]:
        """Those whose jobs this worker computes, or refuses because nobody can."""
        names = (*self._repository.names, *sorted(self._presence.unserved))
        return tuple(n for n in dict.fromkeys(names) if n not in self._presence.withheld)

    async def _start(self, work: Work) -> None:
        """Compute jobs of one model now, or beside the loop if the model must be loaded first."""
        model = work[0][0].model
        resident = self._residency.get(model)
        if resident is None:
            # loading may take minutes: jobs of other models go on meanwhile
            self._aside(self._load_then_compute(model, work))
        else:
            with self._residency.in_use(model):
                await self._computing.run(
                    resident, await self._held.drop_outdated(resident.card, work)
                )

    async def _begin(self, claims: Sequence[Claim]) -> list[Begun]:
        """Begin through an outage too: else what is claimed would wait until its lease runs out."""
        while not self._pacing.is_stopping:
            try:
                return await self._queue.begin_batch(claims)
            except QueueUnavailable:
                await self._pacing.pause(OUTAGE_PAUSE_S)
        with contextlib.suppress(QueueUnavailable):
            await self._queue.release(claims)
        return []

    def _aside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    async def _side_tasks_done(self) -> None:
        if self._side_tasks:
            await asyncio.wait(self._side_tasks)

    async def _try(self, model: str) -> None:
        with contextlib.suppress(CamserveError):  # its published card says why
            await self._residency.load(model)

    async def _make_resident(self, model: str) -> None:
        if self._residency.get(model) is None:
            await self._residency.load(model)
        else:  # who asks does not know: a failure elsewhere or a loss of data hid the card
            await self._residency.confirm(model)

    async def _renew(self, model: str) -> None:
        """Make resident what the folder holds now, whatever is held against it."""
        if model in self._repository.entries:
            self._quarantine.lift(self._repository.entries[model])
        if self._residency.is_current(model):
            await self._residency.confirm(model)
        else:
            await self._residency.update(model)

    async def _serve_load(self, begun: Begun) -> None:
        try:
            await self._make_resident(begun.model)
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

    async def _heartbeat(self) -> None:
        async with self._one_heartbeat:  # an older one must not arrive after a newer one
            await self._presence.heartbeat(
                self._residency.resident,
                self._computing.limited_batches,
                activation_bytes=self._computing.activations.bytes,
            )

    async def _look(self) -> None:
        self._optimizing.look()
        self._computing.activations.keep_only(self._residency.identities)
        if await self._upkeep.look():
            await self._heartbeat()

    async def _drain(self) -> None:
        """Finish what runs beside, and hand back what was claimed but has not begun.

        What has begun and is still not done after `drain_s` is handed on by the supervisor.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self._side_tasks_done()
                await self._computing.returned()
        try:
            await self._queue.release()
            await self._presence.leave()
            await self._metrics.tell()
        except QueueUnavailable:
            logger.warning("Redis is away: unstarted jobs are handed on after their lease")
