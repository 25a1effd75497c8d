from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, State, connect
from camserve.errors import QueueUnavailable
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import begin_one, eventually, submit
from tests.faults.proxy import Network

pytestmark = pytest.mark.anyio

PATIENT = QueueOptions(fallback_look_s=1000)
"""Who is not woken waits longer than any test may take."""


async def test_a_waiter_is_woken_by_push(redis: Redis, worker: WorkerMaker):
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        waiting = [asyncio.create_task(queue.wait(job_id, 1000)) for _ in range(3)]
        w = worker()
        begun = await begin_one(w)
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waiting)
        await w.finish(begun, b"r")
        for record in await asyncio.gather(*waiting):
            assert record is not None
            assert record.state is State.SUCCEEDED
        assert queue._notifications._waiters == {}


async def test_a_waiter_wakes_although_every_notification_is_lost(
    redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    deaf = JobQueue(redis, options)  # never started: it has no subscription at all
    job_id = await submit(deaf)
    waiting = asyncio.create_task(deaf.wait(job_id, 1000))
    w = worker()
    begun = await begin_one(w)
    await asyncio.sleep(0.02)
    await w.finish(begun, b"r")
    record = await waiting
    assert record is not None
    assert record.state is State.SUCCEEDED


async def test_a_killed_subscription_comes_back_and_looks_again(redis: Redis, worker: WorkerMaker):
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        waiting = asyncio.create_task(queue.wait(job_id, 1000))
        w = worker()
        begun = await begin_one(w)
        # The job closes while nobody listens: the news is lost, the resubscription is not.
        pipeline = redis.pipeline()
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await pipeline.execute()
        await w.finish(begun, b"r")
        record = await waiting
        assert record is not None
        assert record.state is State.SUCCEEDED
        # And the subscription works again.
        again = await submit(queue)
        waiting = asyncio.create_task(queue.wait(again, 1000))
        await eventually(lambda: redis.pubsub_numsub("cam:done"))
        await w.finish(await begin_one(w), b"r")
        assert await waiting


async def test_a_subscription_that_died_without_a_word_is_made_again(
    redis: Redis, redis_url: str, worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("camserve.broker.notifications._QUIET_S", 0.1)
    socket = Path(urlsplit(redis_url).path)
    with Network() as network:
        proxy = network.proxy(socket)
        async with (
            connect(f"redis://127.0.0.1:{proxy.port}") as far,
            JobQueue(far, PATIENT) as queue,
        ):
            before = await subscriptions(redis)
            await asyncio.sleep(0.5)  # quiet, and not dead: it answers when it is asked
            assert await subscriptions(redis) == before
            proxy.abandon()
            await eventually(lambda: is_another(redis, before))
            job_id = await submit(JobQueue(redis, PATIENT))
            waiting = asyncio.create_task(queue.wait(job_id, 1000))
            w = worker()
            await w.finish(await begin_one(w), b"r")
            assert await waiting


async def subscriptions(redis: Redis) -> set[str]:
    return {client["id"] for client in await redis.client_list("pubsub")}


async def is_another(redis: Redis, before: set[str]) -> bool:
    return bool(await subscriptions(redis) - before)


async def test_idle_connections_that_died_without_a_word_cost_one_call(
    redis_url: str, options: QueueOptions
):
    socket = Path(urlsplit(redis_url).path)
    with Network() as network:
        proxy = network.proxy(socket)
        url = f"redis://127.0.0.1:{proxy.port}?socket_timeout=0.5"
        async with connect(url) as far:
            queue = JobQueue(far, options)
            job_id = await submit(queue)
            await asyncio.gather(*(far.blpop("nothing", timeout=0.1) for _ in range(8)))
            proxy.abandon()
            with pytest.raises(QueueUnavailable):
                await queue.get(job_id)
            assert all(await asyncio.gather(*(queue.get(job_id) for _ in range(8))))


async def test_a_wait_ends_in_time_with_the_latest_record(queue: JobQueue, worker: WorkerMaker):
    job_id = await submit(queue)
    record = await queue.wait(job_id, 0)
    assert record is not None
    assert record.state is State.QUEUED
    await begin_one(worker())
    started_s = time.monotonic()
    record = await queue.wait(job_id, 0.15)
    assert record is not None
    assert record.state is State.RUNNING
    assert time.monotonic() - started_s > 0.14


async def test_a_closed_job_needs_no_wait(queue: JobQueue, worker: WorkerMaker):
    job_id = await submit(queue)
    await queue.cancel(job_id)
    record = await queue.wait(job_id, 1000)
    assert record is not None
    assert record.state is State.CANCELED


async def test_hundreds_wait_at_once(queue: JobQueue, worker: WorkerMaker):
    """More waiters than connections: they share one subscription and a bounded pool."""
    ids = [await submit(queue) for _ in range(200)]
    waiting = [asyncio.create_task(queue.wait(job_id, 100)) for job_id in ids]
    w = worker()
    while batch := await w.begin_batch(await w.claim(["resnet"], 32, 0)):
        assert all(await asyncio.gather(*(w.finish(begun, b"r") for begun in batch)))
    records = await asyncio.gather(*waiting)
    assert {record.state for record in records if record} == {State.SUCCEEDED}


async def test_abandoned_calls_spoil_no_connection(queue: JobQueue):
    """A client that hangs up cancels its call; the next one on that connection must not notice."""
    ids = [await submit(queue) for _ in range(20)]

    async def look(job_id: str) -> None:
        record = await queue.get(job_id)
        assert record is not None
        assert record.id == job_id
        assert record.document == b"{}"

    for delay_s in (0, 0.0001, 0.0003, 0.0005, 0.001, 0.002, 0.004):
        tasks = [asyncio.create_task(look(job_id)) for job_id in ids]
        waits = [asyncio.create_task(queue.wait(job_id, 5)) for job_id in ids]
        await asyncio.sleep(delay_s)
        for task in (*tasks[::2], *waits):
            task.cancel()
        outcomes = await asyncio.gather(*tasks, *waits, return_exceptions=True)
        assert not [one for one in outcomes if isinstance(one, AssertionError)]
        assert all(task.cancelled() for task in waits)
        await asyncio.gather(*(look(job_id) for job_id in ids))
    assert queue._notifications._waiters == {}
