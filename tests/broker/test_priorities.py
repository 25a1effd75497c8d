"""Interactive jobs go before bulk ones, also before those that a worker has claimed already."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from camserve.broker import Claim, JobQueue, Priority, QueueOptions, WorkerQueue
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import assert_at_rest, submit

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
    assert [claim.job_id for claim in claims] == [interactive]
    served = []
    while claims:
        await finish(w, claims)
        claims = await w.claim(MODELS, 8, 0)
        served += [claim.job_id for claim in claims]
    assert sorted(served) == sorted(reserve)
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
