"""The device does not wait: what was computed is committed while the next batch runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from camserve.broker import Ending, JobQueue, WorkerQueue
from camserve.contracts.states import State
from camserve.queueing import queue_options
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import settings
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, noise

pytestmark = pytest.mark.anyio

OPTIONS = queue_options(settings())


class Commits:
    """The results on their way back, which arrive once the gate is open."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.waiting: list[str] = []
        self.batches: list[set[str]] = []
        self._commit = bench.worker_queue.commit
        monkeypatch.setattr(bench.worker_queue, "commit", self._wait)

    async def _wait(self, endings: Sequence[Ending]) -> list[bool | Exception]:
        self.batches.append({one.begun.job_id for one in endings})
        self.waiting += [one.begun.job_id for one in endings]
        await self.gate.wait()
        return await self._commit(endings)


async def entered(folder: Path) -> None:
    await eventually(lambda: asyncio.to_thread((folder / "entered").exists))


async def test_the_next_batch_runs_while_results_are_on_their_way(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0), model="slow"))  # it is resident now
    commits = Commits(bench, monkeypatch)
    first = await enqueue(bench.queue, noise(1), model="slow")
    await eventually(lambda: _true(commits.waiting == [first]))
    second = await enqueue(bench.queue, noise(2, SLOW), model="slow")
    await entered(tmp_path)
    assert await bench.job_is(first, State.RUNNING)
    commits.gate.set()
    await bench.answer(first)
    assert await bench.job_is(second, State.RUNNING)
    (tmp_path / "go").touch()
    await bench.answer(second)


async def test_results_of_a_batch_go_back_together(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))  # it is resident now
    commits = Commits(bench, monkeypatch)
    commits.gate.set()
    first = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await entered(tmp_path)
    mates = [await enqueue(bench.queue, noise(1), model="slow") for _ in range(2)]
    (tmp_path / "go").touch()
    for job_id in (first, *mates):
        await bench.answer(job_id)
    assert commits.batches == [{first}, set(mates)]


async def test_a_stopping_worker_waits_for_results_on_their_way(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    commits = Commits(bench, monkeypatch)
    job_id = await enqueue(bench.queue, noise(1))
    await eventually(lambda: _true(commits.waiting == [job_id]))
    bench.loop.stop()
    await asyncio.sleep(0.1)
    assert await bench.status() is not None  # it has not left
    commits.gate.set()
    await bench.answer(job_id)


async def test_what_may_kill_the_worker_waits_for_results_on_their_way(
    start: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its crash would take them along, and count as an attempt of each."""
    dead = WorkerQueue(redis, OPTIONS, "dead")
    suspect = await enqueue(JobQueue(redis, OPTIONS), noise(0), model="slow")
    assert await dead.begin_batch(await dead.claim(["slow"], 1, 1))
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(1)))
    commits = Commits(bench, monkeypatch)
    innocent = await enqueue(bench.queue, noise(2))
    await eventually(lambda: _true(commits.waiting == [innocent]))
    await WorkerQueue.release_consumer(redis, OPTIONS, "dead", ["slow"])
    await asyncio.sleep(0.1)
    record = await bench.queue.get(suspect)
    assert record is not None
    assert record.attempts == 1
    commits.gate.set()
    await bench.answer(innocent)
    await bench.answer(suspect)


async def _true(value: bool) -> bool:
    return value
