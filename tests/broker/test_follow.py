"""Following a job: its place in the queue, its progress, its states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, JobRecord, Priority, QueueOptions, State, keys
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, begin_one, claim_one, eventually, submit, submit_later

pytestmark = pytest.mark.anyio

PATIENT = QueueOptions(fallback_look_s=1000)


async def following(news: AsyncIterator[JobRecord | None]) -> JobRecord:
    async with asyncio.timeout(60):
        record = await anext(news)
    assert record is not None
    return record


async def test_every_change_comes_by_push(redis: Redis, worker: WorkerMaker) -> None:
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        async with aclosing(queue.follow(job_id)) as news:
            assert (await following(news)).state is State.QUEUED
            w = worker()
            begun = await begin_one(w)
            record = await following(news)
            assert (record.state, record.progress) == (State.RUNNING, None)
            await w.report([(begun, 3, 10)])
            assert (await following(news)).progress == (3, 10)
            await queue.cancel(job_id)
            assert (await following(news)).cancel_requested
            await w.finish(begun, b"")
            assert (await following(news)).state is State.CANCELED
            with pytest.raises(StopAsyncIteration):
                await anext(news)
        assert queue._notifications._waiters == {}


async def test_every_change_comes_although_no_news_does(
    redis: Redis, worker: WorkerMaker, options: QueueOptions
) -> None:
    deaf = JobQueue(redis, options)
    job_id = await submit(deaf)
    states = set()
    w = worker()
    async for record in deaf.follow(job_id):
        assert record is not None
        states.add(record.state)
        if record.state is State.QUEUED:
            begun = await begin_one(w)
        elif record.state is State.RUNNING:
            await w.finish(begun, b"r")
    assert states == {State.QUEUED, State.RUNNING, State.SUCCEEDED}


async def test_a_closed_job_and_one_that_is_not_there(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await queue.cancel(job_id)
    assert [one.state async for one in queue.follow(job_id) if one] == [State.CANCELED]
    assert [one async for one in queue.follow("no-job")] == []


async def test_a_waiter_for_the_end_is_not_woken_by_other_news(
    redis: Redis, worker: WorkerMaker
) -> None:
    async with JobQueue(redis, PATIENT) as queue:
        job_id = await submit(queue)
        listening = queue._notifications.listening
        with listening(job_id, keys.DONE) as done, listening(job_id, keys.NEWS) as news:
            w = worker()
            begun = await begin_one(w)
            await asyncio.wait_for(news.wait(), 60)
            assert not done.is_set()
            await w.finish(begun, b"r")
            await asyncio.wait_for(done.wait(), 60)


async def test_progress_is_that_of_the_owner(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
) -> None:
    job_id = await submit(queue)
    first, second = worker("w1"), worker("w2")
    stale = await begin_one(first)
    await first.report([(stale, 5, 10)])

    (claim,) = await eventually(lambda: second.reclaim([MODEL]))
    begun = await second.begin(claim)
    assert begun is not None
    record = await queue.get(job_id)
    assert record is not None
    assert record.progress is None  # a new attempt begins from nothing
    await first.report([(stale, 9, 10)])
    record = await queue.get(job_id)
    assert record is not None
    assert record.progress is None
    await second.finish(begun, b"r")
    await second.report([(begun, 10, 10)])
    assert await redis.hexists(keys.job(MODEL, job_id), "progress") is False


async def test_the_place_in_the_queue(queue: JobQueue, redis: Redis, worker: WorkerMaker) -> None:
    bulk = [await submit(queue, priority=Priority.BULK) for _ in range(2)]
    first, second = [await submit(queue) for _ in range(2)]
    on_gpu = await submit_later(queue, redis, execution="cuda")
    other = await submit(queue, model="other")

    async def place(job_id: str) -> int | None:
        record = await queue.get(job_id)
        assert record is not None
        same, ahead = await queue.placed(record)
        assert same.id == record.id
        return ahead

    places = {job_id: await place(job_id) for job_id in (first, second, on_gpu, *bulk, other)}
    assert places == {first: 0, second: 1, on_gpu: 2, bulk[0]: 3, bulk[1]: 4, other: 0}
    w = worker()
    claim = await claim_one(w)
    assert claim.job_id == first
    assert [await place(one) for one in (first, second, bulk[0])] == [0, 0, 2]
    begun = await w.begin(claim)
    assert begun is not None
    assert await place(first) is None
    await w.finish(begun, b"r")
    assert await place(first) is None
    await queue.cancel(second)
    assert await place(bulk[0]) == 1


async def test_a_job_that_began_since_it_was_looked_at(
    queue: JobQueue, worker: WorkerMaker
) -> None:
    job_id = await submit(queue)
    before = await queue.get(job_id)
    assert before is not None
    await begin_one(worker())
    now, ahead = await queue.placed(before)
    assert (now.state, ahead) == (State.RUNNING, None)
