"""A redelivered job, which may be what killed its worker, and the models that load meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, WorkerQueue
from camserve.contracts.states import State
from camserve.queueing import queue_options
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import TINY, settings, write_model
from tests.workers.jobs import enqueue, noise

pytestmark = pytest.mark.anyio

OPTIONS = queue_options(settings())


class Gates:
    """The loads of a worker's models, each of which waits until it may go on."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}
        self._load = bench.loop._residency.load
        monkeypatch.setattr(bench.loop._residency, "load", self._wait)

    async def _wait(self, name: str) -> Any:
        self.begun.append(name)
        await self._gates.setdefault(name, asyncio.Event()).wait()
        return await self._load(name)

    def open(self, name: str) -> None:
        self._gates.setdefault(name, asyncio.Event()).set()


@pytest.fixture
def third(models: Path) -> str:
    """A model besides `tiny` and `slow`."""
    write_model(models, "third", TINY)
    return "third"


async def lose(redis: Redis, model: str = "tiny") -> str:
    """A job that its worker began, before it died."""
    dead = WorkerQueue(redis, OPTIONS, "dead")
    suspect = await enqueue(JobQueue(redis, OPTIONS), noise(2), model=model)
    await dead.begin_batch(await dead.claim([model], 1, 1))
    return suspect


async def redeliver(redis: Redis, model: str = "tiny") -> None:
    assert await WorkerQueue.release_consumer(redis, OPTIONS, "dead", [model]) == 1


async def attempts(bench: Bench, job_id: str) -> int:
    record = await bench.queue.get(job_id)
    assert record is not None
    return record.attempts


async def beside_a_load(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> tuple[Bench, Gates, str, str]:
    """A worker that loads `slow` for one job, while another, which it may not survive, waits."""
    suspect = await lose(redis)
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    gates = Gates(bench, monkeypatch)
    innocent = await enqueue(bench.queue, noise(1), model="slow")
    await eventually(lambda: bench.job_is(innocent, State.RUNNING))
    await redeliver(redis)
    return bench, gates, suspect, innocent


async def test_what_may_kill_the_worker_does_not_meet_a_job_whose_model_loads(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each crash would count as an attempt of the innocent one, too."""
    bench, gates, suspect, innocent = await beside_a_load(start, redis, monkeypatch)
    await asyncio.sleep(0.3)  # time enough for a worker that does not wait
    assert await attempts(bench, suspect) == 1
    gates.open("slow")
    await bench.answer(innocent)
    await bench.answer(suspect)
    assert await attempts(bench, suspect) == 2


async def test_jobs_of_resident_models_go_on_while_it_waits(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, gates, suspect, _ = await beside_a_load(start, redis, monkeypatch)
    for seed in range(3):
        await bench.answer(await enqueue(bench.queue, noise(seed)))
    assert await attempts(bench, suspect) == 1
    gates.open("slow")
    await bench.answer(suspect)


async def test_loads_that_follow_each_other_do_not_keep_it_waiting(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch, third: str
) -> None:
    bench, gates, suspect, _ = await beside_a_load(start, redis, monkeypatch)
    await bench.answer(await enqueue(bench.queue, noise(3)))  # the loop has gone round
    late = await enqueue(bench.queue, noise(4), model=third)
    await bench.answer(await enqueue(bench.queue, noise(5)))
    assert gates.begun == ["slow"]
    gates.open("slow")
    await bench.answer(suspect)  # before the other load has ended
    await eventually(lambda: bench.job_is(late, State.RUNNING))
    gates.open(third)
    await bench.answer(late)


async def test_another_worker_may_take_it_meanwhile(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect = await lose(redis)
    bench = await start()
    gates = Gates(bench, monkeypatch)
    innocent = await enqueue(bench.queue, noise(1), model="slow")
    await eventually(lambda: bench.job_is(innocent, State.RUNNING))
    await redeliver(redis)
    await asyncio.sleep(0.1)
    other = WorkerQueue(redis, OPTIONS, "w2")
    (claim,) = await other.claim(["tiny"], 1, 0)
    begun = await other.begin(claim)
    assert begun is not None
    assert begun.job_id == suspect
    assert await other.finish(begun, b"")
    gates.open("slow")
    await bench.answer(innocent)
