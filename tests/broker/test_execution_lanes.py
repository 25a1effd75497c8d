"""The lanes of the devices: their names, the set of them, and what is lost with it."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, Priority, QueueOptions, WorkerQueue, keys
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, blocked, claim_one, expire, submit

pytestmark = pytest.mark.anyio

BULK = Priority.BULK


async def test_everything_is_forgotten_and_goes_on(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    running, unstarted = [await submit(queue, execution="cuda:1") for _ in range(2)]
    w, idle = worker(device="cuda:1"), worker("idle", device="cuda:1")
    begun = await begin_one(w)
    claim = await claim_one(w)
    waiting = asyncio.create_task(idle.claim([MODEL], 1, 1.0))
    await blocked(redis, 1)
    await redis.flushall()
    assert await waiting == []
    assert not await w.finish(begun, b"r")
    assert await w.extend([begun]) == []
    assert await w.begin(claim) is None
    await w.release([claim])
    assert await w.reclaim([MODEL]) == []
    assert await queue.depth(MODEL) == 0
    # The caller enqueues the same ids again, and all goes on: wake-up, depth, reaping.
    waiting = asyncio.create_task(idle.claim([MODEL], 1, 2.0))
    await blocked(redis, 1)
    assert await submit(queue, running, execution="cuda:1") == running
    (again,) = await waiting
    assert await idle.finish(await idle.begin(again), b"again")  # type: ignore[arg-type]
    await submit(queue, unstarted, execution="cuda:1")
    assert await queue.depth(MODEL) == 1
    await expire(queue, redis, unstarted)
    await assert_at_rest(redis)


async def test_a_lost_set_of_lanes_is_mended_by_the_next_job(queue: JobQueue, redis: Redis):
    early = await submit(queue, execution="cuda:1")
    await redis.delete(keys.lanes(MODEL))
    late = await submit(queue, execution="cuda:1")
    assert await queue.depth(MODEL) == 2
    await expire(queue, redis, early, late)
    await assert_at_rest(redis)


async def test_the_set_of_lanes_lives_as_long_as_they_and_names_no_empty_ones(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    lanes, stream = keys.lanes(MODEL), keys.stream(MODEL, "interactive@cpu")
    w = worker()
    await w.claim([MODEL], 1, 0.01)
    assert not await redis.exists(lanes)  # who only waits costs other callers nothing
    await submit(queue, execution="cpu", time_to_deadline_ms=100_000)
    await submit(queue, execution="cuda", time_to_deadline_ms=100)
    assert await redis.pttl(lanes) > 100_000
    assert await redis.pttl(lanes) >= await redis.pttl(stream) - 1
    begun = await begin_one(w)
    await queue.reap()
    assert await redis.smembers(lanes) == {b"interactive@cpu", b"interactive@cuda"}
    await w.finish(begun, b"r")
    await queue.reap()
    assert await redis.smembers(lanes) == {b"interactive@cuda"}
    await submit(queue, execution="cpu")
    assert await queue.depth(MODEL) == 2


async def test_all_keys_of_a_model_lie_in_one_slot(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    w = worker("dead", device="cuda:1")
    await submit(queue, execution="cuda:1", attachments={"a": b"1"}, idempotency_key="k")
    await submit(queue, execution="cuda", priority=BULK)
    await w.begin_batch(await w.claim([MODEL], 2, 0.01))
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    await w.claim([MODEL], 2, 0.01)
    mine = [name for name in await redis.keys() if name not in (b"cam:queues", b"cam:done")]
    assert len(mine) > 10
    assert all(name.startswith(b"cam:{%s}:" % MODEL.encode()) for name in mine)


def test_the_names_of_lanes():
    assert keys.lane("bulk", "auto") == "bulk"
    assert keys.lane("bulk", "cuda:1") == "bulk@cuda:1"
    assert keys.rank("bulk@cuda:1") == keys.rank("bulk") == "bulk"
