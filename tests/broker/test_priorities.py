"""Interactive jobs go before bulk ones, also before those that a worker has claimed already."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import Claim, JobQueue, Priority, QueueOptions, WorkerQueue
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import assert_at_rest, blocked, submit, submit_later

pytestmark = pytest.mark.anyio

BULK = Priority.BULK
Case = tuple[str, tuple[str, ...], str]
"""Device of the worker, executions of what is in its reserve, and of the interactive job."""
MODELS = ["a", "b", "c"]


async def bulk_in_reserve(
    queue: JobQueue, redis: Redis, worker: WorkerQueue, *executions: str
) -> list[str]:
    """A worker that waited while a bulk job came for each model, and got all of them at once."""
    if not executions:
        executions = ("auto",) * len(MODELS)
    ids = [
        await submit(queue, model=model, priority=BULK, execution=one)
        for model, one in zip(MODELS, executions, strict=True)
    ]
    await worker._source._make_lanes(MODELS)
    first = await worker._source._block(MODELS, worker._source._lanes, 1)
    assert first is not None
    worker._source._reserve.insert(0, first)
    assert {one.job_id for one in worker._source.reserve} == set(ids)
    return ids


async def finish(worker: WorkerQueue, claims: list[Claim]) -> None:
    for begun in await worker.begin_batch(claims):
        assert await worker.finish(begun, b"r")


@pytest.mark.parametrize(
    "case",
    [
        ("cpu", (), "auto"),
        ("cuda:1", ("auto", "cuda", "cuda:1"), "auto"),
        ("cuda:1", ("auto", "cuda", "cuda:1"), "cuda:1"),
    ],
)
@pytest.mark.parametrize("model", MODELS)
async def test_an_interactive_job_goes_before_the_reserve(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, case: Case, model: str
):
    device, executions, of_interactive = case
    w = worker(device=device)
    reserve = await bulk_in_reserve(queue, redis, w, *executions)
    interactive = await submit(queue, model=model, execution=of_interactive)
    claims = await w.claim(MODELS, 8, 0)
    assert claims[0].job_id == interactive
    assert {claim.model for claim in claims} == {model}  # bulk of the same fills what it leaves
    served = []
    while claims:
        served += [claim.job_id for claim in claims]
        await finish(w, claims)
        claims = await w.claim(MODELS, 8, 0)
    assert sorted(served) == sorted([interactive, *reserve])
    await assert_at_rest(redis)


async def test_a_redelivered_job_goes_before_the_reserve(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    w = worker()
    suspect = await submit(queue, model="b")
    dead = worker("dead")
    await dead.begin_batch(await dead.claim(["b"], 1, 0))
    await bulk_in_reserve(queue, redis, w)
    assert await WorkerQueue.release_consumer(redis, options, "dead", ["b"]) == 1
    assert (await w.claim(MODELS, 8, 0, redelivered=False))[0].lane == "bulk"
    (claim,) = await w.claim(MODELS, 8, 0)
    assert (claim.job_id, claim.redelivered) == (suspect, True)


async def test_jobs_of_equal_rank_do_not_pass_the_reserve(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    w = worker()
    reserve = await bulk_in_reserve(queue, redis, w)
    late = await submit(queue, model="c", priority=BULK)
    (first,) = await w.claim(MODELS, 1, 0)
    assert first.job_id in reserve
    assert first.job_id != late


async def test_a_backlog_of_bulk_jobs_delays_an_interactive_one_by_no_batch(
    redis: Redis, worker: WorkerMaker
):
    """Whenever a worker looks, an interactive job is next; bulk jobs fill what it leaves."""
    queue = JobQueue(redis, QueueOptions())
    for number in range(500):
        await submit(queue, model=MODELS[number % 3], priority=BULK)
    w = worker()
    for round_ in range(20):
        await finish(w, await w.claim(MODELS, 8, 0.01))
        interactive = await submit(queue, model=MODELS[round_ % 3])
        claims = await w.claim(MODELS, 8, 0.01)
        assert claims[0].job_id == interactive
        assert [claim.lane for claim in claims] == ["interactive", *["bulk"] * 7]
        assert {claim.model for claim in claims} == {MODELS[round_ % 3]}
        await finish(w, claims)


async def weights(worker: WorkerQueue, limit: int = 8) -> list[int]:
    """Of the jobs of a claim, which are done."""
    claims = await worker.claim(MODELS, limit, 0.01)
    await finish(worker, claims)
    return [claim.weight for claim in claims]


@pytest.mark.parametrize("executions", [("auto",), ("auto", "cpu")])
async def test_a_claim_holds_no_more_than_a_batch(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, executions: tuple[str, ...]
):
    """Jobs of many inputs take the room of as many; what does not fit any more is left to others,
    and what came after it does not pass it."""
    for number, weight in enumerate((3, 4, 2, 1, 20, 1, 8, 1)):
        execution = executions[number % len(executions)]
        await submit_later(queue, redis, model="a", weight=weight, execution=execution)
    w = worker()
    claimed = [await weights(w) for _ in range(7)]
    assert claimed == [[3, 4], [2, 1], [20], [1], [8], [1], []]
    await assert_at_rest(redis)


async def test_bulk_jobs_fill_what_interactive_ones_leave(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    for weight in (3, 2, 1):
        await submit_later(queue, redis, model="a", weight=weight, priority=BULK)
    await submit(queue, model="a", weight=4)
    assert await weights(worker()) == [4, 3]
    assert await weights(worker()) == [2, 1]


async def test_what_goes_along_with_a_job_that_was_waited_for(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    for waited_for, others, expected in ((6, (3, 1), [6]), (6, (2, 1), [6, 2]), (9, (1,), [9])):
        w = worker()
        waiting = asyncio.create_task(w.claim(MODELS, 8, 2))
        await blocked(redis, 1)
        await submit(queue, model="b", weight=waited_for)
        first = await waiting
        ids = [await submit_later(queue, redis, model="b", weight=one) for one in others]
        w._source._reserve = first  # as if the others had come while the first was waited for
        claims = await w.claim(MODELS, 8, 0)
        assert [one.weight for one in claims] == expected
        await finish(w, claims)
        for job_id in ids:
            await queue.cancel(job_id)


async def test_what_is_put_back_weighs_the_same(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    for _ in range(2):
        await submit(queue, model="a", weight=5)
    w, dead = worker(), worker("dead")
    await w.release(await w.claim(MODELS, 8, 0))
    await dead.begin_batch(await dead.claim(MODELS, 8, 0))
    assert await WorkerQueue.release_consumer(redis, options, "dead", ["a"]) == 1
    assert [await weights(w) for _ in range(3)] == [[5], [5], []]
