"""Each transition is counted once, wherever it happens; what processes measured is added once."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from camserve import measures
from camserve.broker import JobQueue, Priority, QueueOptions, Totals, WorkerQueue, keys
from camserve.measures import COUNTERS, QUEUE_WAIT_SECONDS, Tally, counts_of, distributions_of
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    claim_one,
    expire,
    submit,
)

pytestmark = pytest.mark.anyio


async def counts(redis: Redis, model: str = MODEL) -> dict[str, float]:
    """All counters that are not 0, by name and labels."""
    census = await Totals(redis).census()
    fields = census.models[model].totals
    return {
        counter.field(*labels): value
        for counter in COUNTERS
        for labels, value in counts_of(counter, fields).items()
        if value
    }


async def waits(redis: Redis, priority: str = "interactive") -> measures.Distribution:
    fields = (await Totals(redis).census()).models[MODEL].totals
    return distributions_of(QUEUE_WAIT_SECONDS, fields)[priority,]


async def test_a_job_is_counted_when_it_comes_begins_and_ends(
    redis: Redis, queue: JobQueue, worker: WorkerMaker
) -> None:
    await submit(queue)
    await submit(queue, priority=Priority.BULK)
    assert await counts(redis) == {"jobs_accepted|interactive": 1, "jobs_accepted|bulk": 1}
    first = await begin_one(worker())
    second = await begin_one(worker())
    assert await worker().finish(first, b"result")
    assert await worker().finish(first, b"result")  # the same call again: its reply was lost
    assert await worker().fail(second, b"{}")
    assert await counts(redis) == {
        "jobs_accepted|interactive": 1, "jobs_accepted|bulk": 1, "job_attempts": 2,
        "jobs|succeeded": 1, "jobs|failed": 1,
    }  # fmt: skip
    await assert_at_rest(redis)


async def test_what_is_repeated_or_refused_is_not_counted(
    redis: Redis, queue: JobQueue, worker: WorkerMaker, options: QueueOptions
) -> None:
    job_id = await submit(queue, idempotency_key="k", fingerprint="f")
    assert await submit(queue, job_id) == job_id
    assert await submit(queue, idempotency_key="k", fingerprint="f") == job_id
    begun = await begin_one(worker("w1"))
    await WorkerQueue.release_consumer(redis, options, "w1", [MODEL])
    again = await begin_one(worker("w2"))
    assert not await worker("w1").finish(begun, b"late")
    assert await worker("w2").finish(again, b"result")
    await queue.cancel(job_id)
    assert await counts(redis) == {
        "jobs_accepted|interactive": 1, "job_attempts": 2, "job_redeliveries": 1,
        "jobs|succeeded": 1,
    }  # fmt: skip
    assert (await waits(redis)).buckets[-1][1] == 1  # of the first attempt alone


async def test_every_end_is_counted(
    redis: Redis, queue: JobQueue, worker: WorkerMaker, options: QueueOptions
) -> None:
    await queue.cancel(await submit(queue))
    await expire(queue, redis, await submit(queue))  # by the reaper
    late = await submit(queue, time_to_deadline_ms=0)
    assert await worker().begin(await claim_one(worker())) is None, late  # by who would begin it
    await submit(queue)
    for attempt in range(options.max_attempts):
        await begin_one(worker(f"dead{attempt}"))
        await WorkerQueue.release_consumer(redis, options, f"dead{attempt}", [MODEL])
    assert await worker().begin(await claim_one(worker())) is None
    found = await counts(redis)
    ends = {name: value for name, value in found.items() if name.startswith("jobs|")}
    assert ends == {"jobs|canceled": 1, "jobs|expired": 2, "jobs|dead": 1}
    assert found["job_attempts"] == found["job_redeliveries"] == options.max_attempts
    assert (await Totals(redis).census()).models[MODEL].dead_letters == 1


async def test_a_claim_that_never_began_and_is_handed_back_is_no_redelivery(
    redis: Redis, queue: JobQueue, worker: WorkerMaker
) -> None:
    await submit(queue)
    await worker("w1").release([await claim_one(worker("w1"))])
    assert await counts(redis) == {"jobs_accepted|interactive": 1}


@pytest.mark.parametrize(
    ("waited_ms", "bound"),
    [(0, 0.001), (2, 0.002), (3, 0.004), (1000, 1.024), (131_072, 131.072), (131_073, 1e999)],
)
def test_buckets_are_those_of_the_script(waited_ms: int, bound: float) -> None:
    spelt = QUEUE_WAIT_SECONDS.bucket(waited_ms / 1000)
    assert float(spelt) == bound


async def test_a_wait_lies_in_the_bucket_that_its_length_says(
    redis: Redis, queue: JobQueue, worker: WorkerMaker
) -> None:
    for age_ms in (1_000, 100_000, 10_000_000):
        job_id = await submit(queue)
        job = keys.job(MODEL, job_id)
        created_ms = int(await redis.hget(job, "created_ms") or 0)
        await redis.hset(job, "created_ms", created_ms - age_ms)
        await worker().finish(await begin_one(worker()), b"")
    found = await waits(redis)
    at_most = dict(found.buckets)
    assert at_most[0.512] == 0
    assert at_most[65.536] == 1
    assert at_most[float("inf")] == 3
    assert 10_101 <= found.sum < 10_201
    fields = (await Totals(redis).census()).models[MODEL].totals
    for name in fields:  # whatever bucket the script took is one of ours
        bound = name.split("|")[-1]
        if name.startswith(QUEUE_WAIT_SECONDS.name) and bound != "sum":
            assert float(bound) in at_most


async def test_queues_as_they_are(redis: Redis, queue: JobQueue, worker: WorkerMaker) -> None:
    assert (await Totals(redis).census()).models == {}
    first = await submit(queue)
    await submit(queue, execution="cpu")
    await submit(queue, model="other")
    census = await Totals(redis).census()
    assert sorted(census.models) == ["other", MODEL]
    rank = census.models[MODEL].ranks["interactive"]
    assert (rank.open, rank.waiting) == (2, 2)
    assert (census.models[MODEL].ranks["bulk"].open, census.models["other"].dead_letters) == (0, 0)
    created_ms = int(await redis.hget(keys.job(MODEL, first), "created_ms") or 0)
    await redis.hset(keys.job(MODEL, first), "created_ms", created_ms - 5000)
    rank = (await Totals(redis).census()).models[MODEL].ranks["interactive"]
    assert 5 <= rank.oldest_s < 60
    await begin_one(worker())
    await begin_one(worker())
    rank = (await Totals(redis).census()).models[MODEL].ranks["interactive"]
    assert (rank.open, rank.waiting, rank.oldest_s) == (2, 0, 0)


async def test_a_model_with_a_card_is_told_before_its_first_job(redis: Redis) -> None:
    await redis.hset(keys.CARDS, "quiet", b"{}")
    (census,) = (await Totals(redis).census()).models.values()
    assert census.totals == {}
    jobs = next(one for one in COUNTERS if one.name == "jobs")
    assert set(counts_of(jobs, census.totals).values()) == {0}


async def test_what_was_measured_is_added_once(redis: Redis) -> None:
    tally = Tally()
    for seconds in (0.003, 0.5, 1000):
        tally.observe(measures.COMPUTE_SECONDS, seconds, "explain", model=MODEL)
    tally.count(measures.DEVICE_BUSY_SECONDS, "h", "cuda:0", model=None, by=0.25)
    tally.count(measures.DEVICE_BUSY_SECONDS, "h", "cuda:0", model=None, by=0.5)
    taken = tally.take()
    assert tally.take() == {}
    for _ in range(2):  # as a client library does whose reply was lost
        await Totals(redis).add(taken, "nonce")
    await Totals(redis).add({}, "other")
    await redis.sadd(keys.QUEUES, MODEL)
    census = await Totals(redis).census()
    found = distributions_of(measures.COMPUTE_SECONDS, census.models[MODEL].totals)["explain",]
    assert dict(found.buckets)[0.004] == 1
    assert dict(found.buckets)[0.512] == 2
    assert found.buckets[-1] == (float("inf"), 3)
    assert found.sum == pytest.approx(1000.503)
    busy = counts_of(measures.DEVICE_BUSY_SECONDS, census.totals)
    assert busy == {("h", "cuda:0"): 0.75}
    for name in await redis.keys("cam:*totals*"):
        assert 29 * 86_400_000 < await redis.pttl(name) <= 30 * 86_400_000


async def test_totals_live_as_long_as_something_is_added(redis: Redis, queue: JobQueue) -> None:
    await submit(queue)
    name = keys.totals(MODEL)
    await redis.pexpire(name, 1000)
    await submit(queue)
    assert await redis.pttl(name) > 29 * 86_400_000


def test_a_bucket_of_another_version_counts_in_the_next_larger_one() -> None:
    fields = {"compute_seconds|explain|0.003": 2.0, "compute_seconds|explain|sum": 0.006}
    found = distributions_of(measures.COMPUTE_SECONDS, fields)["explain",]
    assert dict(found.buckets)[0.002] == 0
    assert dict(found.buckets)[0.004] == 2


def test_names_of_measures_are_unique_and_cannot_be_mistaken() -> None:
    every = (*COUNTERS, *measures.HISTOGRAMS)
    names = [one.name for one in every]
    assert len(set(names)) == len(names)
    for one in every:
        assert one.help.endswith(".")
        assert "|" not in one.name
