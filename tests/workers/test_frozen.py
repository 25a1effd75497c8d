"""A child that is alive and does nothing is replaced, and what it held is done by others."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue
from camserve.contracts.states import State
from camserve.queueing import queue_options
from tests.workers.cards import TINY, factory_card, settings, write_model
from tests.workers.factories import FREEZING, SLOW
from tests.workers.jobs import enqueue, noise
from tests.workers.processes import Workers
from tests.workers.test_processes import done, entered, eventually, succeeded
from workers.pulse import LEAST_SILENCE_S

pytestmark = pytest.mark.anyio

FREEZES_S = 60.0
LIMITS = {"lease_s": LEAST_SILENCE_S, "drain_s": 5}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`odd` misbehaves by the mark of an input; its files are in the folder of the models."""
    folder = tmp_path / "models"
    write_model(folder, "tiny", TINY)
    write_model(folder, "odd", factory_card("misbehaving", folder=str(folder)))
    return folder


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis, queue_options(settings(**LIMITS))) as queue:
        yield queue


async def test_a_stopped_child_and_one_that_lets_no_thread_run_are_replaced(
    redis_url: str, queue: JobQueue, models: Path, tmp_path: Path
) -> None:
    """One of each at the same time, on two devices; neither can be ended by anything gentle."""
    with Workers(redis_url, models, tmp_path, devices="cpu,cpu", **LIMITS) as workers:
        await eventually(lambda: workers.log.count("worker ready") == 2, FREEZES_S)
        first = {child.pid: child for child in workers.children()}
        slow = await enqueue(queue, noise(0, SLOW), model="odd")
        await entered(models)
        record = await queue.get(slow)
        assert record is not None
        stopped = next(p for p in first.values() if f"{record.consumer}" in p.cmdline())
        stopped.suspend()
        freezing = await enqueue(queue, noise(1, FREEZING), model="odd")
        await eventually((models / "freezing").exists)
        await queue.cancel(freezing)  # or it would freeze one worker after the other
        waiting = await enqueue(queue, noise(2), model="tiny")
        (models / "go").touch()
        again, other = await succeeded(queue, slow, waiting, limit_s=FREEZES_S)
        assert (again.attempts, other.attempts) == (2, 1)
        assert again.consumer != record.consumer
        assert (await done(queue, freezing, FREEZES_S)).state is State.CANCELED
        await eventually(lambda: workers.log.count("ended (frozen, SIGKILL)") == 2, FREEZES_S)
        assert not any(psutil.pid_exists(pid) for pid in first)


@pytest.mark.soak
async def test_a_machine_that_sleeps_wakes_with_the_same_workers(
    redis_url: str, queue: JobQueue, models: Path, tmp_path: Path
) -> None:
    """The pause of a container, or the lid of a laptop: all stand still for longer than a lease."""
    with Workers(redis_url, models, tmp_path, devices="cpu,cpu", **LIMITS) as workers:
        assert workers.process is not None
        await eventually(lambda: workers.log.count("worker ready") == 2, FREEZES_S)
        children = workers.children()
        slow = await enqueue(queue, noise(0, SLOW), model="odd")
        await entered(models)
        for order in (children, children[::-1]):  # whoever is woken first
            os.killpg(workers.process.pid, signal.SIGSTOP)
            await asyncio.sleep(2 * LEAST_SILENCE_S)
            workers.process.send_signal(signal.SIGCONT)
            for child in order:
                child.resume()
            await asyncio.sleep(2 * LEAST_SILENCE_S)
        (models / "go").touch()
        await succeeded(queue, slow, await enqueue(queue, noise(1)), limit_s=FREEZES_S)
        assert [child.pid for child in workers.children()] == [child.pid for child in children]
        assert "frozen" not in workers.log
