"""Who hands a job in and waits for it asks the server no more than he must, and misses nothing."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, State
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import begin_one, eventually, submit

pytestmark = pytest.mark.anyio

PATIENT = QueueOptions(fallback_look_s=1000)
"""Who is not woken waits longer than any test may take."""
LARGE = 16_385  # bytes of a result that does not come along


async def looks(redis: Redis) -> int:
    """At jobs, since the server was asked to count."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"])


async def told(queue: JobQueue, worker: WorkerMaker) -> None:
    """Returns when all news so far has arrived: they come in order."""
    job_id = await submit(queue)
    waiting = asyncio.create_task(queue.wait(job_id, 1000))
    w = worker("herald")
    await w.finish(await begin_one(w), b"r")
    assert await waiting


async def test_a_job_that_was_just_accepted_is_looked_at_once(redis: Redis, worker: WorkerMaker):
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        await redis.config_resetstat()
        waiting = asyncio.create_task(queue.wait(job_id, 1000))
        w = worker()
        await w.finish(await begin_one(w), b"result")
        record = await waiting
        assert record is not None
        assert (record.state, record.result) == (State.SUCCEEDED, b"result")
        assert await looks(redis) == 1


async def test_a_job_that_ends_before_the_wait_begins(redis: Redis, worker: WorkerMaker):
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        w = worker()
        await w.finish(await begin_one(w), b"r")
        await told(queue, worker)
        record = await queue.wait(job_id, 1000)
        assert record is not None
        assert record.state is State.SUCCEEDED


@pytest.mark.parametrize("is_back", [False, True], ids=["deaf", "listening again"])
async def test_a_job_that_ends_before_the_wait_and_while_nobody_listens(
    redis: Redis, worker: WorkerMaker, is_back: bool
):
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        w = worker()
        begun = await begin_one(w)
        pipeline = redis.pipeline()
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await pipeline.execute()
        await w.finish(begun, b"r")
        if is_back:
            await told(queue, worker)
        record = await queue.wait(job_id, 1000)
        assert record is not None
        assert record.state is State.SUCCEEDED


async def test_a_job_that_was_there_before_is_looked_at(redis: Redis, worker: WorkerMaker):
    """Its end was told before it was handed in once more."""
    async with JobQueue(redis, PATIENT) as queue:
        first = await submit(queue, idempotency_key="k", fingerprint="f")
        w = worker()
        await w.finish(await begin_one(w), b"r")
        await told(queue, worker)
        assert await submit(queue, first) == first
        assert await submit(queue, idempotency_key="k", fingerprint="f") == first
        record = await queue.wait(first, 1000)
        assert record is not None
        assert record.state is State.SUCCEEDED
        assert queue._notifications._unheard_of == set()


async def test_a_job_is_lost_before_anybody_looked(queue: JobQueue, redis: Redis):
    job_id = await submit(queue)
    await redis.flushall()
    assert await asyncio.wait_for(queue.wait(job_id, 1000), 60) is None


async def test_what_nobody_waits_for_is_not_remembered(queue: JobQueue, worker: WorkerMaker):
    await submit(queue)
    w = worker()
    await w.finish(await begin_one(w), b"r")

    async def is_forgotten() -> bool:
        return not queue._notifications._unheard_of

    await eventually(is_forgotten)


async def test_a_result_comes_along_only_if_it_is_small(queue: JobQueue, worker: WorkerMaker):
    w = worker()
    for result in (bytes(LARGE - 1), bytes(LARGE)):
        job_id = await submit(queue)
        await w.finish(await begin_one(w), result)
        record = await queue.wait(job_id, 1000)
        assert record is not None
        assert record.result == (result if len(result) < LARGE else None)
        assert await queue.result(job_id) == result
        record = await queue.get(job_id)
        assert record is not None
        assert record.result == (result if len(result) < LARGE else None)
    failed = await submit(queue)
    await w.fail(await begin_one(w), b"{}")
    record = await queue.wait(failed, 1000)
    assert record is not None
    assert record.result is None
