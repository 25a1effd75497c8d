from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, State, WorkerQueue
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, claim_one, submit

pytestmark = pytest.mark.anyio


async def test_a_canceled_queued_job_never_runs_and_frees_its_place(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    record = await queue.cancel(job_id)
    assert record is not None
    assert record.state is State.CANCELED
    assert await queue.depth(MODEL) == 0
    assert await worker().claim([MODEL], 1, 0) == []
    await assert_at_rest(redis)


async def test_a_claimed_job_can_still_be_canceled(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    w = worker()
    claim = await claim_one(w)
    waiting = asyncio.create_task(queue.wait(job_id, 5.0))
    await queue.cancel(job_id)
    assert await w.begin(claim) is None
    assert await w.extend([claim]) == []
    record = await waiting
    assert record is not None
    assert record.state is State.CANCELED
    await assert_at_rest(redis)


@pytest.mark.parametrize("how", ["finish", "fail"])
async def test_a_running_job_is_canceled_when_its_worker_commits(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, how: str
):
    job_id = await submit(queue)
    w = worker()
    begun = await begin_one(w)
    assert not await w.is_canceled(begun)
    record = await queue.cancel(job_id)
    assert record is not None
    assert (record.state, record.cancel_requested) == (State.RUNNING, True)
    assert await w.is_canceled(begun)
    assert await getattr(w, how)(begun, b"unwanted")
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.failure) == (State.CANCELED, None)
    assert await queue.result(job_id) is None
    await assert_at_rest(redis)


async def test_a_canceled_job_is_not_run_again_after_its_worker_died(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    job_id = await submit(queue)
    await begin_one(worker("dead"))
    await queue.cancel(job_id)
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    heir = worker("heir")
    assert await heir.begin(await claim_one(heir)) is None
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.CANCELED


async def test_a_closed_job_stays_as_it_is(queue: JobQueue, worker: WorkerMaker):
    job_id = await submit(queue)
    w = worker()
    await w.finish(await begin_one(w), b"r")
    record = await queue.cancel(job_id)
    assert record is not None
    assert (record.state, record.cancel_requested) == (State.SUCCEEDED, False)
    assert await queue.result(job_id) == b"r"
