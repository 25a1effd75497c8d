"""Redelivered jobs, which a worker leaves where they are while something runs beside."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, WorkerQueue
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, submit

pytestmark = pytest.mark.anyio


async def redelivered(
    queue: JobQueue, redis: Redis, options: QueueOptions, execution: str = "auto"
) -> str:
    """A job whose first worker vanished."""
    job_id = await submit(queue, execution=execution)
    await begin_one(WorkerQueue(redis, options, "dead"))
    assert await WorkerQueue.release_consumer(redis, options, "dead", [MODEL]) == 1
    return job_id


async def test_a_worker_may_leave_redelivered_jobs_to_others(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    suspect = await redelivered(queue, redis, options)
    fresh = await submit(queue)
    w = worker()
    (claim,) = await w.claim([MODEL], 8, 0, redelivered=False)
    assert claim.job_id == fresh
    waiting = asyncio.create_task(w.claim([MODEL], 8, 0.1, redelivered=False))
    assert await waiting == []
    (other,) = await worker("w2").claim([MODEL], 8, 0)
    assert (other.job_id, other.redelivered) == (suspect, True)
    for owner, held in ((w, claim), (worker("w2"), other)):
        begun = await owner.begin(held)
        assert begun is not None
        assert await owner.finish(begun, b"r")
    await assert_at_rest(redis)


async def test_a_redelivered_job_waits_until_somebody_takes_it(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    w = worker()
    assert not await w.redelivered_waits(["other", MODEL])
    await submit(queue)
    assert not await w.redelivered_waits(["other", MODEL])
    await w.release(await w.claim([MODEL], 1, 0))
    await begin_one(w)
    await redelivered(queue, redis, options)
    assert await w.redelivered_waits(["other", MODEL])
    assert not await w.redelivered_waits(["other"])
    held = await begin_one(worker("w2"))
    assert not await w.redelivered_waits([MODEL])
    assert await worker("w2").finish(held, b"r")
    assert not await w.redelivered_waits([MODEL])


async def test_a_redelivered_job_of_another_device_keeps_nobody_waiting(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    await redelivered(queue, redis, options, execution="cpu")
    assert await worker().redelivered_waits([MODEL])
    assert not await worker(device="cuda:0").redelivered_waits([MODEL])
