"""News of closed jobs: noted with the close, claimed by one front end at a time, then settled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import Deliveries, JobQueue, QueueOptions, State, WorkerQueue, keys
from camserve.broker.job_ids import new_job_id
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    claim_one,
    eventually,
    expire,
    submit,
)

pytestmark = pytest.mark.anyio
LIFE_MS = 500_000


@pytest.fixture
def deliveries(redis: Redis, options: QueueOptions) -> Deliveries:
    return Deliveries(redis, options)


async def submitted(queue: JobQueue, **changes: Any) -> str:
    return await submit(queue, delivery_life_ms=LIFE_MS, **changes)


async def closed(queue: JobQueue) -> str:
    job_id = await submitted(queue)
    await queue.cancel(job_id)
    return job_id


async def delivery_of(queue: JobQueue, job_id: str) -> Any:
    record = await queue.get(job_id)
    assert record is not None
    return record.delivery


async def by_success(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await worker.finish(await begin_one(worker), b"result")
    return State.SUCCEEDED


async def by_failure(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await worker.fail(await begin_one(worker), b"{}")
    return State.FAILED


async def by_cancel(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await queue.cancel(job_id)
    return State.CANCELED


async def by_cancel_of_a_running_one(
    queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str
) -> State:
    begun = await begin_one(worker)
    await queue.cancel(job_id)
    await worker.finish(begun, b"result")
    return State.CANCELED


async def by_reaper(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await expire(queue, redis, job_id)
    return State.EXPIRED


async def by_late_claim(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await redis.hset(keys.job(MODEL, job_id), "deadline_ms", 0)
    assert await worker.begin(await claim_one(worker)) is None
    return State.EXPIRED


async def by_death(queue: JobQueue, redis: Redis, worker: WorkerQueue, job_id: str) -> State:
    await redis.hset(keys.job(MODEL, job_id), "attempts", 99)
    assert await worker.begin(await claim_one(worker)) is None
    return State.DEAD


ENDS = [
    *(by_success, by_failure, by_cancel, by_cancel_of_a_running_one),
    *(by_reaper, by_late_claim, by_death),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_every_end_is_delivered(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, deliveries: Deliveries, end: Any
) -> None:
    job_id = await submitted(queue)
    open_one = await delivery_of(queue, job_id)
    assert (open_one.state, open_one.attempts, open_one.due_ms) == ("pending", 0, None)
    assert await deliveries.claim(9, 5) == []
    state = await end(queue, redis, worker(), job_id)
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is state
    assert record.delivery is not None
    assert record.delivery.due_ms == record.completed_ms
    (delivery,) = await deliveries.claim(9, 5)
    assert delivery.job_id == job_id
    assert await deliveries.settle(delivery, "delivered", b"fine")
    settled = await delivery_of(queue, job_id)
    assert (settled.state, settled.attempts, settled.outcome) == ("delivered", 1, b"fine")
    assert settled.due_ms is None
    assert not await redis.exists(keys.deliveries(MODEL))
    await assert_at_rest(redis)


async def test_a_job_that_asks_for_none_has_none(
    queue: JobQueue, redis: Redis, deliveries: Deliveries
) -> None:
    job_id = await submit(queue)
    await queue.cancel(job_id)
    assert await delivery_of(queue, job_id) is None
    assert await deliveries.claim(9, 5) == []
    assert not await redis.exists(keys.deliveries(MODEL))


async def test_the_job_is_kept_until_it_is_settled(
    queue: JobQueue,
    redis: Redis,
    worker: WorkerMaker,
    deliveries: Deliveries,
    options: QueueOptions,
) -> None:
    job_id = await submitted(queue, attachments={"picture": b"x"})
    w = worker()
    await w.finish(await begin_one(w), b"result")
    kept = [keys.job(MODEL, job_id), keys.result(MODEL, job_id), keys.attachments(MODEL, job_id)]
    for key in (*kept, keys.deliveries(MODEL), keys.QUEUES):
        assert LIFE_MS - 10_000 < await redis.pttl(key) <= LIFE_MS + options.job_ttl_ms + 20_000, (
            key
        )
    (delivery,) = await deliveries.claim(1, 5)
    await deliveries.settle(delivery, "failed", b"")
    for key in kept:
        assert options.job_ttl_ms - 10_000 < await redis.pttl(key) <= options.job_ttl_ms, key


async def test_one_front_end_has_it_at_a_time(queue: JobQueue, deliveries: Deliveries) -> None:
    ids = {await closed(queue) for _ in range(20)}
    claims = await asyncio.gather(*(deliveries.claim(3, 5) for _ in range(12)))
    claimed = [one.job_id for due in claims for one in due]
    assert len(claimed) == len(ids)
    assert set(claimed) == ids
    assert all(len(due) <= 3 for due in claims)


async def test_the_longest_due_of_all_models_come_first(
    queue: JobQueue, redis: Redis, deliveries: Deliveries
) -> None:
    ids = [await submitted(queue, model=model) for model in ("a", "b")]
    for job_id in ids:
        await queue.cancel(job_id)
    await redis.zadd(keys.deliveries("b"), {ids[1]: 1})
    assert [one.job_id for one in await deliveries.claim(1, 5)] == [ids[1]]
    assert [one.job_id for one in await deliveries.claim(1, 5)] == [ids[0]]


async def test_a_lease_that_runs_out_makes_it_due_again(
    queue: JobQueue, deliveries: Deliveries
) -> None:
    """The front end that had it is dead; should it live after all, its word counts no more."""
    job_id = await closed(queue)
    (first,) = await deliveries.claim(1, 0.05)

    async def again() -> Any:
        return await deliveries.claim(1, 5)

    (second,) = await eventually(again)
    assert second.job_id == job_id
    assert not await deliveries.settle(first, "failed", b"stale")
    await deliveries.release(first)
    assert not await deliveries.retry(first, 0, b"stale")
    assert await deliveries.claim(1, 5) == []
    assert await deliveries.settle(second, "delivered", b"mine")
    assert (await delivery_of(queue, job_id)).outcome == b"mine"


async def test_whoever_waits_in_line_is_kept(
    queue: JobQueue, redis: Redis, options: QueueOptions, deliveries: Deliveries
) -> None:
    """Front ends that are away, or a long line, take longer than all attempts of one."""
    job_id = await submit(queue, delivery_life_ms=1)
    await queue.cancel(job_id)
    kept = [keys.job(MODEL, job_id), keys.deliveries(MODEL), keys.QUEUES]
    ttl_ms = options.job_ttl_ms

    async def lives_ms() -> list[int]:
        return [await redis.pttl(key) for key in kept]

    assert min(await lives_ms()) > ttl_ms - 1000
    (delivery,) = await deliveries.claim(1, 5)
    await deliveries.retry(delivery, 1000, b"")
    assert min(await lives_ms()) > 1_000_000 + ttl_ms - 1000
    await redis.zadd(keys.deliveries(MODEL), {job_id: 1})
    (delivery,) = await deliveries.claim(1, 5)
    await deliveries.release(delivery, 2000)
    assert min(await lives_ms()) > 2_000_000 + ttl_ms - 1000
    assert await deliveries.claim(1, 5) == []
    assert (await delivery_of(queue, job_id)).attempts == 1


async def test_another_attempt_after_a_while(
    queue: JobQueue, redis: Redis, deliveries: Deliveries
) -> None:
    job_id = await closed(queue)
    (delivery,) = await deliveries.claim(1, 5)
    assert await deliveries.retry(delivery, 60, b"not yet")
    noted = await delivery_of(queue, job_id)
    assert (noted.state, noted.attempts, noted.outcome) == ("pending", 1, b"not yet")
    assert await deliveries.claim(1, 5) == []
    record = await queue.get(job_id)
    assert record is not None
    assert record.completed_ms is not None
    assert noted.due_ms >= record.completed_ms + 60_000
    await redis.zadd(keys.deliveries(MODEL), {job_id: 1})  # as if it had passed
    assert [one.job_id for one in await deliveries.claim(1, 5)] == [job_id]


async def test_what_is_handed_back_is_due_at_once_and_was_no_attempt(
    queue: JobQueue, deliveries: Deliveries
) -> None:
    job_id = await closed(queue)
    (delivery,) = await deliveries.claim(1, 500)
    with queue.news_of_deliveries() as news:
        await deliveries.release(delivery)
        await asyncio.wait_for(news.wait(), 5)
    (again,) = await deliveries.claim(1, 5)
    assert again.job_id == job_id
    assert (await delivery_of(queue, job_id)).attempts == 0


async def test_news_come_with_the_close(queue: JobQueue) -> None:
    with queue.news_of_deliveries() as news:
        job_id = await submit(queue)
        await queue.cancel(job_id)
        other = await submitted(queue)
        assert not news.is_set()
        await queue.cancel(other)
        await asyncio.wait_for(news.wait(), 5)


async def test_a_job_that_is_gone_is_no_longer_due(
    queue: JobQueue, redis: Redis, deliveries: Deliveries
) -> None:
    job_id = await closed(queue)
    await redis.delete(keys.job(MODEL, job_id))
    assert await deliveries.claim(1, 5) == []
    assert not await redis.exists(keys.deliveries(MODEL))


async def test_as_many_as_asked_for_of_all_models(queue: JobQueue, deliveries: Deliveries) -> None:
    for model in ("a", "b") * 3:
        await queue.cancel(await submitted(queue, model=model))
    assert len(await deliveries.claim(4, 5)) == 4
    assert len(await deliveries.claim(4, 5)) == 2


async def test_a_repeated_close_is_delivered_once(
    queue: JobQueue, worker: WorkerMaker, deliveries: Deliveries
) -> None:
    await submitted(queue, job_id=new_job_id(MODEL))
    w = worker()
    begun = await begin_one(w)
    assert await w.finish(begun, b"result")
    assert await w.finish(begun, b"result")  # its reply was lost
    assert len(await deliveries.claim(9, 5)) == 1


async def test_what_one_script_closes_is_closed_at_one_time(
    queue: JobQueue, redis: Redis, deliveries: Deliveries
) -> None:
    """Also where the server's clock runs on while a script does."""
    job_ids = [await submitted(queue) for _ in range(250)]
    await expire(queue, redis, *job_ids)
    records = [await queue.get(job_id) for job_id in job_ids]
    times = {(record.completed_ms, record.delivery.due_ms) for record in records if record}
    assert len(times) == 1
    assert len(set(times.pop())) == 1
