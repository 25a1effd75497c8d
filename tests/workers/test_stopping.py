"""How long a stopping supervisor waits for what runs, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, WorkerQueue, connect
from camserve.broker.embedded import EmbeddedServer
from camserve.queueing import queue_options
from tests.workers.cards import factory_card, settings, write_model
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, noise
from tests.workers.processes import Workers
from tests.workers.test_processes import entered, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "odd", factory_card("misbehaving", folder=str(folder)))
    return folder


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis, queue_options(settings())) as queue:
        yield queue


async def handed_on(redis: Redis) -> list[str]:
    """The jobs that another worker gets at once."""
    other = WorkerQueue(redis, queue_options(settings()), "other")
    claims = await other.claim(["odd"], 8, 0.1)
    assert all(claim.redelivered for claim in claims)
    return [claim.job_id for claim in claims]


async def test_a_job_that_outlasts_the_drain_is_handed_on(
    redis_url: str, redis: Redis, queue: JobQueue, models: Path, tmp_path: Path
) -> None:
    with Workers(redis_url, models, tmp_path, drain_s=0.5) as workers:
        slow = await enqueue(queue, noise(0, SLOW), model="odd")
        await entered(models)
        assert await asyncio.to_thread(workers.stop) == 0
        assert "has not drained and is killed" in workers.log
    assert await handed_on(redis) == [slow]


async def test_a_second_interrupt_waits_for_nothing_and_a_second_sigterm_is_the_first(
    redis_url: str, redis: Redis, queue: JobQueue, models: Path, tmp_path: Path
) -> None:
    with Workers(redis_url, models, tmp_path, drain_s=1000) as workers:
        assert workers.process is not None
        slow = await enqueue(queue, noise(0, SLOW), model="odd")
        await entered(models)
        workers.process.terminate()
        await eventually(lambda: "worker on cpu is stopping" in workers.log)
        # as a terminal does: to the children, too
        os.killpg(workers.process.pid, signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert workers.process.poll() is None
        assert workers.children()
        assert await asyncio.to_thread(workers.stop, signal.SIGINT) == 0
    assert await handed_on(redis) == [slow]


@pytest.mark.soak
@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_a_drain_ends_in_time_although_redis(models: Path, tmp_path: Path, how: str) -> None:
    with EmbeddedServer(tmp_path / "server") as server:
        async with (
            connect(server.url) as client,
            JobQueue(client, queue_options(settings())) as queue,
        ):
            with Workers(server.url, models, tmp_path, drain_s=0.5) as workers:
                await enqueue(queue, noise(0, SLOW), model="odd")
                await entered(models)
                if how == "hangs":
                    os.kill(server.pid, signal.SIGSTOP)
                else:
                    server.stop()
                (models / "go").touch()  # its result can be told to nobody
                assert await asyncio.to_thread(workers.stop) == 0
                if how == "hangs":
                    os.kill(server.pid, signal.SIGCONT)
