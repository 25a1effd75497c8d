"""Recent jobs, newest first, page by page."""

from __future__ import annotations

import random

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, RecentJobs, State, keys
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, eventually, expire, submit

pytestmark = pytest.mark.anyio


async def all_pages(recent: RecentJobs, limit: int, **wanted: object) -> list[str]:
    """The ids of all pages, each of which keeps to its limit."""
    found: list[str] = []
    cursor = None
    while True:
        page = await recent.page(limit, cursor=cursor, **wanted)  # type: ignore[arg-type]
        assert len(page.jobs) <= limit
        found += [record.id for record in page.jobs]
        if page.cursor is None:
            return found
        cursor = page.cursor


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_hold_each_job_once_the_newest_first(
    queue: JobQueue, redis: Redis, limit: int
) -> None:
    ids = [await submit(queue, listed=True, model=random.choice("abc")) for _ in range(14)]
    await submit(queue)  # not listed
    recent = RecentJobs(redis)
    assert await all_pages(recent, limit) == ids[::-1]
    of_a = [one for one in ids[::-1] if one.endswith("-a")]
    assert await all_pages(recent, limit, model="a") == of_a


async def test_what_comes_meanwhile_moves_no_page(queue: JobQueue, redis: Redis) -> None:
    ids = [await submit(queue, listed=True) for _ in range(6)]
    recent = RecentJobs(redis)
    first = await recent.page(3)
    await submit(queue, listed=True)
    second = await recent.page(3, cursor=first.cursor)
    assert [one.id for one in (*first.jobs, *second.jobs)] == ids[::-1]


async def test_jobs_in_some_states(queue: JobQueue, redis: Redis, worker: WorkerMaker) -> None:
    done, running, canceled, queued = [await submit(queue, listed=True) for _ in range(4)]
    w = worker()
    await w.finish(await begin_one(w), b"result")
    await begin_one(w)
    await queue.cancel(canceled)
    recent = RecentJobs(redis)
    for state, job_id in (
        (State.SUCCEEDED, done),
        (State.RUNNING, running),
        (State.CANCELED, canceled),
        (State.QUEUED, queued),
    ):
        page = await recent.page(10, states={state})
        assert [(one.id, one.state) for one in page.jobs] == [(job_id, state)]
    assert await all_pages(recent, 1, states={State.QUEUED, State.SUCCEEDED}) == [queued, done]
    assert await all_pages(recent, 1, states={State.DEAD}) == []


async def test_a_rare_state_among_many(queue: JobQueue, redis: Redis) -> None:
    """More jobs than are looked at in one go: there is a next page although this one is empty."""
    rare = await submit(queue, listed=True)
    member = keys.recent(MODEL)
    for number in range(2500):
        job_id = f"7ZZZZZZZZZZZZZZZZZZZZZ{number:04d}-{MODEL}"
        await redis.zadd(member, {job_id: 0})
        await redis.hset(keys.job(MODEL, job_id), "state", "succeeded")
    recent = RecentJobs(redis)
    first = await recent.page(1, states={State.QUEUED})
    assert first.jobs == ()
    assert first.cursor is not None
    assert await all_pages(recent, 1, states={State.QUEUED}) == [rare]


async def test_what_has_expired_is_left_out_and_struck_off(queue: JobQueue, redis: Redis) -> None:
    kept, gone = [await submit(queue, listed=True) for _ in range(2)]
    await redis.delete(keys.job(MODEL, gone))
    assert await all_pages(RecentJobs(redis), 10) == [kept]
    assert await redis.zrange(keys.recent(MODEL), 0, -1) == [kept.encode()]


async def test_what_has_expired_is_struck_off_though_nobody_reads_so_far(
    queue: JobQueue, redis: Redis
) -> None:
    """Also where ids of a front end whose clock is ahead lie behind many that are kept."""
    old, *kept, new = [await submit(queue, listed=True) for _ in range(152)]
    await redis.delete(keys.job(MODEL, old), keys.job(MODEL, new))  # as at the end of their lives

    async def only_these_are_left() -> bool:
        await queue.reap()
        return await redis.zrange(keys.recent(MODEL), 0, -1) == [one.encode() for one in kept]

    await eventually(only_these_are_left)


async def test_only_the_newest_are_listed(redis: Redis) -> None:
    async with JobQueue(redis, QueueOptions(recent_cap=3)) as queue:
        ids = [await submit(queue, listed=True) for _ in range(5)]
        assert await all_pages(RecentJobs(redis), 10) == ids[:1:-1]
        assert await queue.get(ids[0]) is not None


async def test_the_list_lives_as_long_as_what_is_on_it(queue: JobQueue, redis: Redis) -> None:
    job_id = await submit(queue, listed=True, time_to_deadline_ms=50_000)
    short = await submit(queue, listed=True, time_to_deadline_ms=5_000)
    assert await redis.pttl(keys.recent(MODEL)) > 100_000
    await expire(queue, redis, job_id, short)
    await assert_at_rest(redis)


async def test_a_job_is_listed_once_however_often_it_is_sent(queue: JobQueue, redis: Redis) -> None:
    job_id = await submit(queue, listed=True)
    await submit(queue, job_id, listed=True)
    repeated = {"listed": True, "idempotency_key": "k", "fingerprint": "f"}
    first = await submit(queue, **repeated)
    assert await submit(queue, **repeated) == first
    assert await all_pages(RecentJobs(redis), 10) == [first, job_id]


async def test_nothing_there(redis: Redis) -> None:
    assert await RecentJobs(redis).page(10) == ((), None)
    assert await RecentJobs(redis).page(10, model="never") == ((), None)
