"""Leases and claims that must survive errors and outages, and the clean stop of a worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import WorkerQueue, keys
from camserve.contracts.states import State
from camserve.errors import QueueUnavailable
from camserve.queueing import queue_options
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import settings
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, noise
from workers import batches

pytestmark = pytest.mark.anyio


async def test_background_tasks_survive_any_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were the renewal of leases to die unseen, every long job would be done twice."""
    bench = await start(lease_s=0.15)
    calls = 0
    extend = bench.worker_queue.extend

    async def flaky(held: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("something new")
        if calls == 2:
            raise QueueUnavailable
        return await extend(held)

    monkeypatch.setattr(bench.worker_queue, "extend", flaky)

    async def called() -> bool:
        return calls > 4

    await eventually(called)
    assert "something new" in caplog.text
    assert "Redis is away" in caplog.text


async def leased_at_ms(redis: Redis, model: str) -> int:
    """When the lease of the one job in hand was last begun or extended, by the server's clock."""
    stream = keys.stream(model, "interactive")
    async with redis.pipeline(transaction=True) as at_once:
        at_once.time()
        at_once.xpending_range(stream, keys.GROUP, "-", "+", 1)
        (seconds, micros), (pending,) = await at_once.execute()
    return int(seconds) * 1000 + int(micros) // 1000 - int(pending["time_since_delivered"])


async def test_leases_are_renewed_while_a_long_job_runs(start: Start, tmp_path: Path) -> None:
    bench = await start(lease_s=0.15)
    slow = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    for _ in range(3):  # for longer than one lease, in all
        begun_ms = await leased_at_ms(bench.redis, "slow")

        async def renewed(begun_ms: int = begun_ms) -> bool:
            return await leased_at_ms(bench.redis, "slow") >= begun_ms + 50

        await eventually(renewed)
    (tmp_path / "go").touch()
    await bench.answer(slow)
    record = await bench.queue.get(slow)
    assert record is not None
    assert record.attempts == 1


async def test_a_claim_outlasts_an_outage_before_it_begins(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would lie until its lease runs out: half a minute."""
    bench = await start()
    begin = bench.worker_queue.begin_batch
    outages = 2

    async def flaky(claims: Any, known: Any) -> Any:
        nonlocal outages
        if outages:
            outages -= 1
            raise QueueUnavailable
        return await begin(claims, known)

    monkeypatch.setattr(batches, "OUTAGE_PAUSE_S", 0.01)
    monkeypatch.setattr(bench.worker_queue, "begin_batch", flaky)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert outages == 0


async def test_stopping_finishes_what_runs_and_hands_the_rest_back(
    start: Start, tmp_path: Path
) -> None:
    bench = await start(max_batch=1)
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    waiting = await enqueue(bench.queue, noise(1), model="slow")
    bench.loop.stop()
    (tmp_path / "go").touch()
    await bench.answer(running)

    async def gone() -> bool:
        return await bench.status() is None

    await eventually(gone)
    assert await bench.job_is(waiting, State.QUEUED)
    other = WorkerQueue(bench.redis, queue_options(settings()), "w2")
    (claim,) = await other.claim(["slow"], 8, 0.1)
    assert (claim.job_id, claim.redelivered) == (waiting, False)


async def test_stopping_does_not_wait_for_a_load_at_start(
    redis: Redis, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis, models, settings(preload="local"))
    loading = asyncio.Event()

    async def hang(_name: str) -> None:
        loading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.loop._residency, "load", hang)
    task = asyncio.create_task(bench.loop.run())
    await loading.wait()
    bench.loop.stop()
    async with asyncio.timeout(60):
        await task


def test_a_lease_outlasts_a_load_and_the_explanation_after_it() -> None:
    limits = settings(load_time_limit_s=900, job_time_limit_s=120)
    assert queue_options(limits).job_time_limit_s >= 900 + 120
