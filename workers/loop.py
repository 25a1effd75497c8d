"""A worker's life: batch after batch, until it is told to stop; meanwhile leases and heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from camserve.broker import CommandReader, Registry, WorkerQueue
from camserve.errors import CamserveError, QueueUnavailable
from camserve.settings import Settings
from workers.ahead import Ahead
from workers.batches import Batches
from workers.computing import Computing
from workers.device_thread import DeviceThread
from workers.held_jobs import HeldJobs
from workers.metrics import WorkerMetrics
from workers.obedience import Obedience
from workers.open_models import OpenModels
from workers.optimizing import Optimizing
from workers.pacing import Pacing, end
from workers.presence import Presence
from workers.proof import Proof
from workers.quarantine import Quarantine
from workers.repository import Repository
from workers.residency import Residency
from workers.side_tasks import SideTasks
from workers.staging import Staging
from workers.upkeep import Upkeep

__all__ = ["WorkerLoop"]

logger = logging.getLogger(__name__)

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
        self._pacing = Pacing()
        self._beside = SideTasks()
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
            repository,
            self._residency,
            self._presence,
            quarantine,
            settings,
            aside=self._beside.start,
        )
        self._optimizing = Optimizing(self._residency, settings, device)
        self._held = HeldJobs(queue, metrics)
        self._models = OpenModels(queue, repository, self._residency, self._presence, self._beside)
        ahead = Ahead(
            queue,
            Staging(device),
            self._pacing,
            self._models.now,
            max_batch=settings.max_batch,
        )
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
            next_is_ready=ahead.is_ready,
        )
        self._batches = Batches(
            queue,
            self._models,
            ahead,
            self._computing,
            held=self._held,
            residency=self._residency,
            thread=self._thread,
            pacing=self._pacing,
            beside=self._beside,
            max_batch=settings.max_batch,
        )
        self._one_heartbeat = asyncio.Lock()
        self._obedience = Obedience(
            commands,
            repository.knows,
            self._pacing,
            load=self._renew,
            unload=self._residency.unload,
            heartbeat=self._heartbeat,
            aside=self._beside.start,
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
            await self._queue.reclaim(self._models.in_charge, limit=0)

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
                await self._batches.turn()
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
            self._beside.start(self._try(name))
        self._presence.warm = True
        await self._pacing.persist(self._heartbeat)
        logger.info(
            "worker ready on %s: %s",
            self._device,
            ", ".join(self._residency.resident) or "no model loaded yet",
        )

    async def _try(self, model: str) -> None:
        with contextlib.suppress(CamserveError):  # its published card says why
            await self._residency.load(model)

    async def _renew(self, model: str) -> None:
        """Make resident what the folder holds now, whatever is held against it."""
        if model in self._repository.entries:
            self._quarantine.lift(self._repository.entries[model])
        if self._residency.is_current(model):
            await self._residency.confirm(model)
        else:
            await self._residency.update(model)

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
                await self._beside.done()
                await self._computing.returned()
        try:
            await self._queue.release()
            await self._presence.leave()
            await self._metrics.tell()
        except QueueUnavailable:
            logger.warning("Redis is away: unstarted jobs are handed on after their lease")
