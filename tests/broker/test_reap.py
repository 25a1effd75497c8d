from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, Registry, State, WorkerQueue, keys
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    claim_one,
    due_ago,
    expire,
    submit,
)

pytestmark = pytest.mark.anyio


async def test_jobs_past_their_deadline_expire_though_no_worker_serves_them(
    queue: JobQueue, redis: Redis
):
    late = [await submit(queue, model=f"m{n}", time_to_deadline_ms=10) for n in range(3)]
    in_time = await submit(queue)
    waiting = asyncio.create_task(queue.wait(late[0], 60))
    await asyncio.sleep(0.03)
    assert await queue.reap() == 3
    assert await queue.reap() == 0
    for job_id in late:
        record = await queue.get(job_id)
        assert record is not None
        assert record.state is State.EXPIRED
    woken = await waiting
    assert woken is not None
    assert woken.state is State.EXPIRED
    record = await queue.get(in_time)
    assert record is not None
    assert record.state is State.QUEUED
    await queue.cancel(in_time)
    await assert_at_rest(redis)


async def test_a_running_job_has_a_lease_more(redis: Redis, worker: WorkerMaker):
    options = QueueOptions(lease_s=600)
    queue, w = JobQueue(redis, options), worker(options=options)
    job_id = await submit(queue)
    begun = await begin_one(w)
    await due_ago(redis, job_id, 500)
    assert await queue.reap() == 0
    await due_ago(redis, job_id, 600)
    assert await queue.reap() == 1
    assert not await w.finish(begun, b"too late")
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.EXPIRED
    assert await queue.result(job_id) is None
    await assert_at_rest(redis)


async def test_a_vanished_job_whose_cancel_was_requested_ends_as_canceled(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    await begin_one(worker())
    await queue.cancel(job_id)
    await expire(queue, redis, job_id)
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.failure) == (State.CANCELED, None)


async def test_entries_without_a_job_are_dropped(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    await claim_one(worker())
    await redis.delete(keys.job(MODEL, job_id))
    assert await queue.depth(MODEL) == 1
    assert await queue.reap() == 0
    assert await queue.depth(MODEL) == 0


async def test_an_entry_deleted_by_hand_does_no_harm(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    await submit(queue)
    claim = await claim_one(worker())
    await redis.xdel(keys.stream(MODEL, "interactive"), claim.entry)
    assert await WorkerQueue.release_consumer(redis, options, "w1", [MODEL]) == 0
    pending = await redis.xpending(keys.stream(MODEL, "interactive"), keys.GROUP)
    assert pending["pending"] == 0


async def test_more_entries_than_one_look_takes(redis: Redis):
    queue = JobQueue(redis, QueueOptions(depth_cap=2000))
    prefix = keys.prefix(MODEL)
    await submit(queue)
    for _ in range(12):
        pipeline = redis.pipeline(transaction=False)
        for _ in range(100):
            pipeline.xadd(f"{prefix}stream:bulk", {"id": "gone"})
        await pipeline.execute()
    await queue.reap()
    assert await queue.depth(MODEL) == 1


async def test_reapers_exclude_each_other(queue: JobQueue, redis: Redis):
    await submit(queue, time_to_deadline_ms=0)
    await redis.set(keys.REAPER, "another", px=60_000)
    assert await queue.reap() == 0
    assert await redis.get(keys.REAPER) == b"another"
    await redis.delete(keys.REAPER)
    assert await queue.reap() == 1
    assert not await redis.exists(keys.REAPER)


async def test_stale_workers_are_removed(redis: Redis):
    options = QueueOptions(worker_stale_s=600)
    queue, registry = JobQueue(redis, options), Registry(redis, options)
    await registry.heartbeat("old", b"")
    await registry.heartbeat("new", b"")
    at_ms, rest = (await redis.hget(keys.WORKERS, "old")).split(b"\n", 1)
    for age_s, left in ((500, {b"old", b"new"}), (700, {b"new"})):
        await redis.hset(keys.WORKERS, "old", b"%d\n%b" % (int(at_ms) - age_s * 1000, rest))
        await queue.reap()
        assert set(await redis.hkeys(keys.WORKERS)) == left
