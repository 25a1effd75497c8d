"""One worker's loop in this process, and the front end's side of its queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from camserve.broker import (
    CommandReader,
    CommandSender,
    JobQueue,
    JobRecord,
    Registry,
    Totals,
    WorkerQueue,
)
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.states import State
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.workers.jobs import read
from workers.loop import WorkerLoop
from workers.metrics import WorkerMetrics
from workers.quarantine import Quarantine
from workers.repository import scan

__all__ = ["Bench", "Start", "eventually"]


class Bench:
    """One worker's loop, and the front end's side of its queue."""

    def __init__(self, redis: Redis, models: Path, settings: Settings) -> None:
        options = queue_options(settings)
        settings = settings.model_copy(update={"models_dir": models})
        loads = models.parent / "loads"
        self.redis = redis
        self.queue = JobQueue(redis, options)
        self.registry = Registry(redis, options)
        self.commands = CommandSender(redis, options)
        self.worker_queue = WorkerQueue(redis, options, "w1")
        self.loop = WorkerLoop(
            queue=self.worker_queue,
            registry=self.registry,
            commands=CommandReader(redis, options, "w1"),
            repository=scan(models),
            quarantine=Quarantine(loads, models, worker="w1", device="cpu"),
            settings=settings,
            metrics=WorkerMetrics(Totals(redis), "cpu"),
            worker="w1",
            device="cpu",
        )

    async def done(self, job_id: str) -> JobRecord:
        record = await self.queue.wait(job_id, 60)
        assert record is not None
        assert record.is_terminal, record.state
        return record

    async def answer(self, job_id: str) -> Any:
        """Metadata and maps of a job that succeeds."""
        record = await self.done(job_id)
        assert record.state is State.SUCCEEDED, record.failure
        return read(await self.queue.result(job_id))

    async def card(self, model: str) -> ResolvedCard | None:
        card = await self.registry.card(model)
        return ResolvedCard.model_validate_json(card) if card else None

    async def state(self, model: str) -> str | None:
        card = await self.card(model)
        return card.state if card else None

    async def job_is(self, job_id: str, state: State) -> bool:
        record = await self.queue.get(job_id)
        return record is not None and record.state is state

    async def status(self) -> WorkerStatus | None:
        status = (await self.registry.workers()).get("w1")
        return WorkerStatus.model_validate_json(status) if status else None


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(60):
        while not (found := await look()):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.005)
    return found


Start = Callable[..., Awaitable[Bench]]
