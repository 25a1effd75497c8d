"""How many jobs may wait, each priority in a line of its own, and what a refused caller is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, Priority, QueueOptions, WorkerQueue, keys
from camserve.errors import QueueFull
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, expire, now_ms, submit

pytestmark = pytest.mark.anyio

BULK = Priority.BULK
FADE_MS, LONGEST_GAP_MS = 60_000, 20_000


@pytest.fixture
def options() -> QueueOptions:
    return QueueOptions(depth_cap=3, bulk_depth_cap=2, job_ttl_s=60)


async def refusal(queue: JobQueue, **changes: Any) -> dict[str, Any]:
    with pytest.raises(QueueFull) as refused:
        await submit(queue, **changes)
    return refused.value.extensions


async def set_pace(redis: Redis, work_ms: float, jobs: float) -> None:
    await redis.hset(keys.pace(MODEL), mapping={"work_ms": work_ms, "jobs": jobs})


async def pace(redis: Redis) -> tuple[float, float]:
    work_ms, jobs = await redis.hmget(keys.pace(MODEL), "work_ms", "jobs")
    return float(work_ms), float(jobs)


async def test_neither_priority_fills_the_line_of_the_other(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    for _ in range(2):
        await submit(queue, priority=BULK)
    assert (await refusal(queue, priority=BULK))["limit"] == 2
    for _ in range(3):
        await submit(queue)
    assert (await refusal(queue))["limit"] == 3
    await submit(queue, model="other")  # the lines are each model's own
    begun = await begin_one(worker())
    assert begun.claim.lane == "interactive"
    assert (await refusal(queue))["limit"] == 3, "what runs has its place until it is done"
    assert await worker().finish(begun, b"r")
    await submit(queue)
    assert (await refusal(queue, priority=BULK))["priority"] == "bulk"


async def test_a_redelivered_job_has_a_place_in_both_lines(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    """Else a worker that dies again and again would make room for more and more."""
    for _ in range(2):
        await submit(queue, priority=BULK)
    dead = worker("dead")
    await dead.begin_batch(await dead.claim([MODEL], 2, 0))
    assert await WorkerQueue.release_consumer(redis, options, "dead", [MODEL]) == 2
    assert (await refusal(queue, priority=BULK))["limit"] == 2
    await submit(queue)
    assert (await refusal(queue))["limit"] == 3
    assert await queue.depth(MODEL) <= options.depth_cap + options.bulk_depth_cap


async def test_what_a_refused_caller_is_told(queue: JobQueue, redis: Redis):
    """In what time those are done that go before it, by the pace of the model."""
    for priority in (BULK, BULK, *[Priority.INTERACTIVE] * 3):
        await submit(queue, priority=priority, time_to_deadline_ms=3_600_000)
    await set_pace(redis, 9000, 6)
    assert (await refusal(queue))["retry_after_s"] == 3 * 1.5
    assert (await refusal(queue, priority=BULK))["retry_after_s"] == 5 * 1.5
    await set_pace(redis, 1, 3)
    assert (await refusal(queue))["retry_after_s"] == 0.001
    await redis.hdel(keys.pace(MODEL), "jobs", "work_ms")
    assert (await refusal(queue))["retry_after_s"] == 3, "a second each, while nothing is known"


async def test_no_line_lasts_longer_than_the_deadlines_in_it(queue: JobQueue, redis: Redis):
    await submit(queue, time_to_deadline_ms=40_000)
    await submit(queue, time_to_deadline_ms=50_000)
    await submit(queue, time_to_deadline_ms=10_000)
    await set_pace(redis, 1e9, 1)
    before_ms = await now_ms(redis)
    told_s = (await refusal(queue))["retry_after_s"]
    latest_ms = int(await redis.hget(keys.pace(MODEL), "latest_ms"))
    assert latest_ms - await now_ms(redis) <= told_s * 1000 <= latest_ms - before_ms
    assert before_ms + 49_000 < latest_ms


async def test_the_latest_deadline_is_forgotten_with_the_last_job(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    await submit(queue, time_to_deadline_ms=3_000_000)
    assert await worker().finish(await begin_one(worker()), b"r")
    for _ in range(3):
        await submit(queue, time_to_deadline_ms=5_000)
    await set_pace(redis, 1e9, 1)
    assert (await refusal(queue))["retry_after_s"] <= 5


class Clock:
    """Jobs that end as if they had begun, and the one before them had ended, some time ago."""

    def __init__(self, redis: Redis, queue: JobQueue, worker: WorkerQueue) -> None:
        self.redis, self.queue, self.worker = redis, queue, worker

    async def end(self, *, begun_ago_ms: int, since_ago_ms: int, **changes: Any) -> int:
        """How many ms more than that have passed, at most, by the server's clock."""
        await submit(self.queue, **changes)
        begun = await begin_one(self.worker)
        first_ms = await now_ms(self.redis)
        job = keys.job(MODEL, begun.job_id)
        await self.redis.hset(job, "started_ms", first_ms - begun_ago_ms)
        await self.redis.hset(keys.pace(MODEL), "since_ms", first_ms - since_ago_ms)
        assert await self.worker.finish(begun, b"r")
        return await now_ms(self.redis) - first_ms


@pytest.fixture
def clock(redis: Redis, queue: JobQueue, worker: WorkerMaker) -> Clock:
    return Clock(redis, queue, worker())


@pytest.mark.parametrize(
    ("begun_ago_ms", "since_ago_ms", "spent_ms"),
    [
        (800, 800, 800),  # a worker that does one after the other
        (800, 300, 300),  # several at once: another one ended meanwhile
        (800, 5_800, 5_800),  # in between, its worker had jobs of other models
        (800, 600_000, 800 + LONGEST_GAP_MS),  # nobody was there
    ],
)
async def test_the_work_of_a_job(
    clock: Clock, redis: Redis, begun_ago_ms: int, since_ago_ms: int, spent_ms: int
):
    passed_ms = await clock.end(begun_ago_ms=begun_ago_ms, since_ago_ms=since_ago_ms)
    work_ms, jobs = await pace(redis)
    assert jobs == 1
    assert spent_ms <= work_ms <= spent_ms + passed_ms


@pytest.mark.parametrize("stepped_back_ms", [3_600_000, 13 * 3_600_000])
async def test_a_clock_that_steps_back_measures_nothing(
    clock: Clock, redis: Redis, stepped_back_ms: int
):
    """Nor does it make what was measured grow, beside which nothing later would count any more."""
    await submit(clock.queue)
    await begin_one(clock.worker)  # so that the queue is not empty at the next
    await set_pace(redis, 50_000, 100)
    passed_ms = await clock.end(begun_ago_ms=-stepped_back_ms, since_ago_ms=-stepped_back_ms)
    work_ms, jobs = await pace(redis)
    assert jobs <= 101
    assert 50_000 * math.exp(-passed_ms / FADE_MS) - 0.001 <= work_ms <= 50_000 + passed_ms
    await clock.end(begun_ago_ms=600_000, since_ago_ms=600_000)
    work_ms, jobs = await pace(redis)
    assert work_ms / jobs > 100_000, "what is measured later counts"
    for _ in range(2):
        await submit(clock.queue, time_to_deadline_ms=3_600_000)
    assert 300 < (await refusal(clock.queue))["retry_after_s"] < 3_600


async def test_what_was_measured_fades_with_work_and_not_with_time(clock: Clock, redis: Redis):
    await submit(clock.queue)
    await begin_one(clock.worker)  # so that the queue is not empty at the next
    await set_pace(redis, 50_000, 100)
    passed_ms = await clock.end(begun_ago_ms=30_000, since_ago_ms=30_000)
    work_ms, jobs = await pace(redis)
    spent_ms = 30_000 + passed_ms
    assert jobs <= 100 * math.exp(-30_000 / FADE_MS) + 1 + 1e-6
    assert jobs >= 100 * math.exp(-spent_ms / FADE_MS) + 1 - 1e-6
    assert work_ms <= 50_000 * math.exp(-30_000 / FADE_MS) + spent_ms + 0.001  # as it is written
    assert work_ms >= 50_000 * math.exp(-spent_ms / FADE_MS) + 30_000 - 0.001


async def test_a_batch_counts_once(redis: Redis, queue: JobQueue, worker: WorkerMaker):
    """Eight that end together took as long as one."""
    queue = JobQueue(redis, QueueOptions())
    for _ in range(8):
        await submit(queue)
    w = worker()
    batch = await w.begin_batch(await w.claim([MODEL], 8, 0))
    first_ms = await now_ms(redis)
    for begun in batch:
        await redis.hset(keys.job(MODEL, begun.job_id), "started_ms", first_ms - 800)
    await redis.hset(keys.pace(MODEL), "since_ms", first_ms - 800)
    for begun in batch:
        assert await w.finish(begun, b"r")
    spent_ms = 800 + await now_ms(redis) - first_ms
    work_ms, jobs = await pace(redis)
    assert 7.9 < jobs <= 8
    assert 790 <= work_ms <= spent_ms


async def test_time_without_jobs_is_no_work(redis: Redis, queue: JobQueue, worker: WorkerMaker):
    first_ms = await now_ms(redis)
    await redis.hset(keys.pace(MODEL), "since_ms", first_ms - 3_600_000)
    await submit(queue)
    assert int(await redis.hget(keys.pace(MODEL), "since_ms")) >= first_ms


async def test_only_what_workers_did_is_measured(
    redis: Redis, queue: JobQueue, worker: WorkerMaker
):
    """Jobs that expire or are canceled in the queue end fast, and a load says nothing of others."""
    await queue.cancel(await submit(queue))
    await expire(queue, redis, await submit(queue))
    await submit(queue, measured=False)
    assert await worker().finish(await begin_one(worker()), b"")
    assert await redis.hget(keys.pace(MODEL), "jobs") is None
    await submit(queue)
    assert await worker().fail(await begin_one(worker()), b"{}")
    assert float(await redis.hget(keys.pace(MODEL), "jobs")) == 1
    await assert_at_rest(redis)
