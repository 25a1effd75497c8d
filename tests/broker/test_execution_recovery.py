"""Jobs that name a device go back to it when their worker dies, is late or lets go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    DeadLetters,
    JobQueue,
    Priority,
    QueueOptions,
    State,
    WorkerQueue,
    keys,
    new_job_id,
)
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    claim_one,
    eventually,
    expire,
    submit,
    submit_later,
)

pytestmark = pytest.mark.anyio

BULK = Priority.BULK


async def test_what_a_dead_worker_held_goes_back_to_its_device(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    one, any_gpu, unstarted = [
        await submit_later(queue, redis, execution=execution, priority=priority)
        for execution, priority in (
            ("cuda:1", Priority.INTERACTIVE),
            ("cuda", Priority.INTERACTIVE),
            ("cuda:1", BULK),
        )
    ]
    dead = worker("dead", device="cuda:1")
    claims = await dead.claim([MODEL], 8, 0)
    assert [claim.job_id for claim in claims] == [one, any_gpu, unstarted]
    lost = await dead.begin_batch(claims[:2])
    assert await WorkerQueue.release_consumer(redis, options, "dead", [MODEL, "other"]) == 3
    assert await queue.depth(MODEL) == 3
    lanes = {b"redelivered@cuda:1", b"redelivered@cuda", b"bulk@cuda:1"}
    assert lanes <= await redis.smembers(keys.lanes(MODEL))
    for lane in ("interactive@cuda:1", "interactive@cuda", "bulk@cuda:1"):
        consumers = await redis.xinfo_consumers(keys.stream(MODEL, lane), keys.GROUP)
        assert b"dead" not in [one["name"] for one in consumers]

    assert await worker("cpu", device="cpu").claim([MODEL], 8, 0) == []
    sibling, heir = worker("sibling", device="cuda:0"), worker("heir", device="cuda:1")
    (taken,) = await sibling.claim([MODEL], 8, 0)
    assert (taken.job_id, taken.redelivered) == (any_gpu, True)
    assert await sibling.claim([MODEL], 8, 0) == []
    first, second = [await heir.claim([MODEL], 8, 0) for _ in range(2)]
    assert [(claim.job_id, claim.redelivered) for claim in first] == [(one, True)]
    assert [(claim.job_id, claim.redelivered) for claim in second] == [(unstarted, False)]
    for w, claim in ((sibling, taken), (heir, first[0]), (heir, second[0])):
        begun = await w.begin(claim)
        assert begun is not None
        assert begun.attempts == 1 + claim.redelivered
        assert await w.finish(begun, b"r")
    for begun in lost:
        assert not await dead.finish(begun, b"stale")
    await assert_at_rest(redis)


async def test_a_lapsed_job_goes_back_to_its_device_whoever_finds_it(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    begun_id = await submit(queue, execution="cuda:1")
    slow = worker("slow", device="cuda:1")
    old = await begin_one(slow)
    held_id = await submit(queue, execution="cuda:1")
    held = await claim_one(slow)
    finder, heir = worker("finder"), worker("heir", device="cuda:1")

    async def is_back() -> list[Any]:
        assert await finder.reclaim([MODEL]) == []  # it may put them back, but not take them
        return await heir.claim([MODEL], 8, 0)

    (claim,) = await eventually(is_back)
    (second,) = await eventually(is_back)
    assert [(one.job_id, one.redelivered) for one in (claim, second)] == [
        (begun_id, True),
        (held_id, False),
    ]
    assert await slow.extend([old]) == []
    assert await slow.extend([held]) == []
    assert await slow.begin(held) is None
    new = await heir.begin(claim)
    assert new is not None
    assert not await slow.finish(old, b"stale")
    assert await heir.finish(new, b"good")
    assert await heir.finish(await heir.begin(second), b"good")  # type: ignore[arg-type]
    await assert_at_rest(redis)


async def test_reclaim_takes_what_fits(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    ids = [await submit_later(queue, redis, execution=one) for one in ("cuda:1", "auto", "cuda")]
    dead = worker("dead", device="cuda:1")
    await dead.begin_batch(await dead.claim([MODEL], 3, 0))
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    claims = await worker("heir", device="cuda:1").reclaim([MODEL], limit=5)
    assert sorted(claim.job_id for claim in claims) == sorted(ids)
    assert all(claim.redelivered for claim in claims)


async def test_a_released_claim_goes_back_to_its_device(queue: JobQueue, worker: WorkerMaker):
    job_id = await submit(queue, execution="cuda:1", priority=BULK)
    w1, w2 = worker("w1", device="cuda:1"), worker("w2", device="cuda:1")
    claim = await claim_one(w1)
    await w1.release([claim])
    assert await worker("cpu").claim([MODEL], 1, 0) == []
    again = await claim_one(w2)
    assert (again.job_id, again.lane, again.redelivered) == (job_id, "bulk@cuda:1", False)
    assert await w1.begin(claim) is None


async def test_a_poison_job_dies_on_its_device(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    job_id = await submit(queue, execution="cuda:1", priority=BULK)
    for attempt in range(options.max_attempts):
        w = worker(f"w{attempt}", device="cuda:1")
        assert (await begin_one(w)).attempts == attempt + 1
        await WorkerQueue.release_consumer(redis, options, f"w{attempt}", [MODEL])
    w = worker("last", device="cuda:1")
    assert await w.begin(await claim_one(w)) is None
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.attempts) == (State.DEAD, options.max_attempts)
    letters = DeadLetters(redis, options)
    letter = await letters.get(job_id)
    assert (letter.execution, letter.priority) == ("cuda:1", BULK)
    again = await letters.replay(
        letter, job_id=new_job_id(MODEL), document=b"", listed=False, delivery_life_ms=None
    )
    assert await worker("cpu").claim([MODEL], 1, 0) == []
    begun = await begin_one(w)
    assert (begun.job_id, begun.claim.lane) == (again, "bulk@cuda:1")
    assert await w.finish(begun, b"")
    await assert_at_rest(redis)


async def test_jobs_whose_device_no_worker_has_expire(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    never = await submit(queue, execution="cuda:5")
    begun = await submit(queue, execution="cuda:6", priority=BULK)
    await begin_one(worker("dead", device="cuda:6"))
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    waiting = asyncio.create_task(queue.wait(never, 5.0))
    assert await worker("cpu").claim([MODEL], 8, 0) == []
    await expire(queue, redis, never, begun)
    woken = await waiting
    assert woken is not None
    assert (woken.state, woken.attempts) == (State.EXPIRED, 0)
    record = await queue.get(begun)
    assert record is not None
    assert (record.state, record.attempts) == (State.EXPIRED, 1)
    assert await queue.depth(MODEL) == 0
    await assert_at_rest(redis)
