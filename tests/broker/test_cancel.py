from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, State, WorkerQueue, keys
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


async def test_what_is_past_its_deadline_is_dropped_before_it_is_computed(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    """As after a load, which may take minutes: at once, and not when the reaper comes to it."""
    job_id = await submit(queue, time_to_deadline_ms=3_600_000)
    w = worker()
    begun = await begin_one(w)
    assert not await w.is_canceled(begun)
    assert not await w.drop(begun), "somebody still wants it"
    now_ms = int((await redis.time())[0]) * 1000
    await redis.hset(keys.job(MODEL, job_id), "deadline_ms", now_ms - 1000)
    late = replace(begun, deadline_ms=now_ms - 1000)
    assert await w.is_canceled(late)
    assert await w.drop(late)
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.EXPIRED
    assert json.loads(record.failure or b"")["code"] == "deadline_exceeded"
    await w.finish(late, b"too late")
    assert await queue.result(job_id) is None
    assert await redis.hget(keys.pace(MODEL), "jobs") is None
    await assert_at_rest(redis)


async def test_dropping_a_canceled_job_and_one_that_another_has(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    canceled, lost = await submit(queue), await submit(queue, time_to_deadline_ms=3_600_000)
    w = worker()
    first, second = [await begin_one(w) for _ in range(2)]
    await queue.cancel(canceled)
    assert await w.drop(first)
    record = await queue.get(canceled)
    assert record is not None
    assert record.state is State.CANCELED
    assert await WorkerQueue.release_consumer(redis, options, "w1", [MODEL]) == 1
    heir = await begin_one(worker("heir"))
    assert heir.job_id == lost
    await redis.hset(keys.job(MODEL, lost), "deadline_ms", 0)
    assert not await w.drop(second), "it is not ours any more"
    record = await queue.get(lost)
    assert record is not None
    assert record.state is State.RUNNING


async def test_of_several_it_is_told_which_nobody_waits_for(queue: JobQueue, worker: WorkerMaker):
    w = worker()
    held = []
    for _ in range(3):
        await submit(queue)
        held.append(await begin_one(w))
    await queue.cancel(held[0].job_id)
    assert await w.are_canceled(held) == [True, False, False]
    await w.finish(held[2], b"r")
    assert await w.are_canceled(held) == [True, False, True]
    assert await w.are_canceled([]) == []
