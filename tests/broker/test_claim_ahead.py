"""What a busy worker claims ahead: it comes next, costs nobody anything, and is no idle worker's
loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    Claim,
    JobQueue,
    Priority,
    QueueOptions,
    State,
    Totals,
    WorkerQueue,
    keys,
)
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, eventually, submit, submit_later, time_passes

pytestmark = pytest.mark.anyio

BULK = Priority.BULK


def ids(claims: list[Claim]) -> list[str]:
    return [claim.job_id for claim in claims]


async def finish(worker: WorkerQueue, claims: list[Claim]) -> list[str]:
    """Begin and finish; the ids of those that were to run."""
    begun = await worker.begin_batch(claims)
    for one in begun:
        assert one.attempts == 1 + one.redelivered
        assert await worker.finish(one, b"r")
    return [one.job_id for one in begun]


async def test_it_comes_next_with_what_came_meanwhile(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    first = [await submit_later(queue, redis) for _ in range(3)]
    w = worker()
    assert ids(await w.claim_ahead([MODEL], 4)) == first
    later = [await submit_later(queue, redis) for _ in range(2)]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [*first, later[0]]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == later[1:]
    assert await w.claim([MODEL], 4, 0) == []


async def test_it_is_topped_up_to_a_batch_and_no_further(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    w = worker()
    assert await w.claim_ahead([MODEL], 4) == []
    assert await w.claim_ahead([], 4) == []
    expected: list[str] = []
    for _ in range(3):
        expected += [await submit_later(queue, redis) for _ in range(2)]
        assert ids(await w.claim_ahead([MODEL], 4)) == expected[:4]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == expected[:4]


async def test_a_batch_ahead_is_of_one_model_whose_turn_it_is(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    w, models = worker(), ["a", "b"]
    a, b = [[await submit(queue, model=model) for _ in range(2)] for model in models]
    assert await finish(w, await w.claim(models, 1, 0)) == a[:1]
    assert ids(await w.claim_ahead(models, 8)) == b
    assert ids(await w.claim_ahead(models, 8)) == b
    assert await finish(w, await w.claim(models, 8, 0)) == b
    assert await finish(w, await w.claim(models, 8, 0)) == a[1:]


@pytest.mark.parametrize("model", ["a", "b"])
async def test_an_interactive_job_goes_before_bulk_ones_that_are_held(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, model: str
):
    w, models = worker(), ["a", "b"]
    bulk = [await submit_later(queue, redis, model="a", priority=BULK) for _ in range(3)]
    assert ids(await w.claim_ahead(models, 3)) == bulk
    interactive = await submit(queue, model=model)
    filled = bulk[:2] if model == "a" else []
    assert await finish(w, await w.claim(models, 3, 0)) == [interactive, *filled]
    assert await finish(w, await w.claim(models, 3, 0)) == bulk[len(filled) :]


async def test_interactive_ones_join_before_bulk_ones_that_are_held(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    quick = await submit(queue)
    bulk = [await submit_later(queue, redis, priority=BULK) for _ in range(2)]
    w = worker()
    assert ids(await w.claim_ahead([MODEL], 4)) == [quick, *bulk]
    late = [await submit_later(queue, redis) for _ in range(2)]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [quick, *late, bulk[0]]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == bulk[1:]


async def test_what_does_not_fit_is_passed_by_nobody(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    w, expected = worker(), []
    for weight, priority in ((3, BULK), (2, BULK), (20, Priority.INTERACTIVE), (1, BULK)):
        expected.append(await submit_later(queue, redis, weight=weight, priority=priority))
        if weight == 2:
            assert ids(await w.claim_ahead([MODEL], 4)) == expected[:1]
    batches = [await finish(w, await w.claim([MODEL], 4, 0)) for _ in range(4)]
    assert batches == [[expected[2]], [expected[0]], [expected[1], expected[3]], []]


async def test_a_heavy_job_is_held_alone(queue: JobQueue, redis: Redis, worker: WorkerMaker):
    heavy, light = [await submit_later(queue, redis, weight=weight) for weight in (20, 1)]
    w = worker()
    for _ in range(2):
        assert ids(await w.claim_ahead([MODEL], 4)) == [heavy]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [heavy]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [light]


async def test_a_redelivered_job_is_not_claimed_ahead_and_goes_before(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    suspect = await submit(queue)
    dead, w = worker("dead"), worker()
    await dead.begin_batch(await dead.claim([MODEL], 1, 0))
    held = await submit(queue)
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    assert ids(await w.claim_ahead([MODEL], 4)) == [held]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [suspect]
    assert await finish(w, await w.claim([MODEL], 4, 0)) == [held]


@pytest.mark.parametrize("comes_first", [True, False])
async def test_a_redelivered_job_waits_for_one_full_batch_at_most(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions, *, comes_first: bool
):
    """A full batch that nothing else can displace begins without another look."""
    suspect = await submit(queue)
    dead, w = worker("dead"), worker()
    await dead.begin_batch(await dead.claim([MODEL], 1, 0))
    held = [await submit_later(queue, redis) for _ in range(4)]
    for is_now in (comes_first, not comes_first):
        if is_now:
            await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
        else:
            assert ids(await w.claim_ahead([MODEL], 2)) == held[:2]
    order = [await finish(w, await w.claim([MODEL], 2, 0)) for _ in range(2)]
    assert order == ([[suspect], held[:2]] if comes_first else [held[:2], [suspect]])
    assert await finish(w, await w.claim([MODEL], 2, 0)) == held[2:]


async def test_an_idle_worker_is_given_what_a_busy_one_holds(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    busy, idle = worker("busy"), worker("idle")
    held = [await submit_later(queue, redis) for _ in range(3)]
    assert ids(await busy.claim_ahead([MODEL], 8)) == held
    assert ids(await idle.claim([MODEL], 2, 0)) == held[:2]


async def test_who_lost_what_it_held_leaves_it_to_the_other(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    busy, idle = worker("busy"), worker("idle")
    held = [await submit_later(queue, redis) for _ in range(3)]
    await busy.claim_ahead([MODEL], 8)
    taken = await idle.claim([MODEL], 2, 0)
    assert await finish(busy, await busy.claim([MODEL], 8, 0)) == held[2:]
    assert await finish(idle, taken) == held[:2]
    await assert_at_rest(redis)


async def test_a_worker_with_work_of_its_own_leaves_it_to_the_busy_one(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    busy, other = worker("busy"), worker("other")
    held = await submit(queue)
    await busy.claim_ahead([MODEL], 8)
    fresh = await submit(queue, priority=BULK)
    assert ids(await other.claim([MODEL], 8, 0)) == [fresh]
    assert await finish(busy, await busy.claim([MODEL], 8, 0)) == [held]


async def test_what_has_begun_is_not_given_away(queue: JobQueue, redis: Redis, worker: WorkerMaker):
    busy, idle = worker("busy"), worker("idle")
    await submit(queue)
    await busy.claim_ahead([MODEL], 8)
    (begun,) = await busy.begin_batch(await busy.claim([MODEL], 8, 0))
    assert await idle.claim([MODEL], 8, 0) == []
    assert await busy.extend([begun]) == [begun]
    assert await idle.claim([MODEL], 8, 0) == []
    assert await busy.finish(begun, b"r")
    await assert_at_rest(redis)


async def test_a_worker_is_given_only_what_its_device_fits(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    busy = worker("busy", device="cuda:0")
    held = [await submit_later(queue, redis, execution=one) for one in ("cuda:0", "auto", "cuda")]
    assert ids(await busy.claim_ahead([MODEL], 8)) == held
    assert ids(await worker("idle").claim([MODEL], 8, 0)) == held[1:2]


async def test_its_lease_is_extended_and_it_can_still_be_given_away(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    busy = worker("busy", options=replace(options, lease_s=10))
    held = await submit(queue)
    (claim,) = await busy.claim_ahead([MODEL], 8)

    async def idle_ms() -> int:
        stream = keys.stream(MODEL, claim.lane)
        (pending,) = await redis.xpending_range(stream, keys.GROUP, "-", "+", 1)
        return int(pending["time_since_delivered"])

    await eventually(lambda: _above(idle_ms(), 20))
    await busy.extend([])
    assert await idle_ms() < 20
    assert ids(await worker("idle").claim([MODEL], 8, 0)) == [held]


async def _above(number: object, least: int) -> bool:
    return int(await number) >= least  # type: ignore[misc, call-overload, no-any-return]


async def test_it_costs_no_attempt_when_its_worker_dies(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    """And is no suspect: only what had begun may have been the cause."""
    dead, heir = worker("dead"), worker("heir")
    running = await submit(queue)
    await dead.begin_batch(await dead.claim([MODEL], 8, 0))
    held = [await submit_later(queue, redis) for _ in range(2)]
    await dead.claim_ahead([MODEL], 8)
    assert await WorkerQueue.release_consumer(redis, options, "dead", [MODEL]) == 3
    (suspect,) = await heir.claim([MODEL], 8, 0)
    assert (suspect.job_id, suspect.redelivered) == (running, True)
    await heir.finish((await heir.begin_batch([suspect]))[0], b"r")
    assert await finish(heir, await heir.claim([MODEL], 8, 0)) == held
    await assert_at_rest(redis)


async def test_it_goes_back_when_its_lease_runs_out(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    held = await submit(queue)
    await worker("frozen").claim_ahead([MODEL], 8)
    heir = worker("heir")

    async def taken() -> list[Claim]:
        await heir.reclaim([MODEL], limit=0)
        lanes = heir._source._fresh
        return (await heir._source._take([MODEL], lanes, 8))[0]  # without what an idle one is given

    claims = await eventually(taken)
    assert await finish(heir, claims) == [held]


async def test_it_is_handed_back_at_once(queue: JobQueue, redis: Redis, worker: WorkerMaker):
    held = await submit(queue)
    w = worker()
    await w.claim_ahead([MODEL], 8)
    await w.release()
    assert await finish(worker("other"), await worker("other").claim([MODEL], 8, 0)) == [held]
    assert await w.claim([MODEL], 8, 0) == []


async def test_it_is_handed_back_when_its_model_is_not_asked_for_any_more(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    held, other = await submit(queue, model="a"), await submit(queue, model="b")
    w = worker()
    assert ids(await w.claim_ahead(["a"], 8)) == [held]
    assert await finish(w, await w.claim(["b"], 8, 0)) == [other]
    assert ids(await worker("w2").claim(["a"], 8, 0)) == [held]
    assert await w.claim(["b"], 8, 0) == []


async def test_it_waits_until_it_begins(queue: JobQueue, redis: Redis, worker: WorkerMaker):
    """For everybody who asks: its state, its place, its wait, its cancel, its deadline."""
    held = await submit(queue)
    canceled = await submit(queue)
    expired = await submit(queue, time_to_deadline_ms=1)
    behind = await submit_later(queue, redis)
    w = worker()
    assert ids(await w.claim_ahead([MODEL], 3)) == [held, canceled, expired]
    record = await queue.get(held)
    assert record is not None
    assert (record.state, record.attempts) == (State.QUEUED, 0)
    waiting = [record, await queue.get(behind)]
    assert [(await queue.placed(one))[1] for one in waiting if one] == [0, 0]
    census = (await Totals(redis).census()).models[MODEL].ranks["interactive"]
    assert (census.open, census.waiting) == (4, 1)
    assert (await queue.cancel(canceled)).state is State.CANCELED  # type: ignore[union-attr]
    await time_passes(redis)
    assert await finish(w, await w.claim([MODEL], 3, 0)) == [held]
    assert await finish(w, await w.claim([MODEL], 3, 0)) == [behind]
    states = [(await queue.get(one)).state for one in (canceled, expired)]  # type: ignore[union-attr]
    assert states == [State.CANCELED, State.EXPIRED]
    await assert_at_rest(redis)


async def test_payloads_are_fetched_before_it_begins(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    known, lost, unknown = [await submit(queue, payload=one) for one in (b"1", b"2", b"3")]
    w = worker()
    claims = await w.claim_ahead([MODEL], 3)
    await redis.delete(keys.payload(MODEL, lost))
    assert await w.payloads(claims) == [b"1", None, b"3"]
    await redis.delete(keys.payload(MODEL, known))  # it is not asked for again
    begun = await w.begin_batch(await w.claim([MODEL], 3, 0), {known: b"1"})
    assert [(one.job_id, one.payload) for one in begun] == [(known, b"1"), (unknown, b"3")]
    record = await queue.get(lost)
    assert record is not None
    assert record.state is State.FAILED


async def test_many_workers_that_claim_ahead_do_each_job_once(redis: Redis, worker: WorkerMaker):
    queue = JobQueue(redis, QueueOptions())
    submitted = [await submit(queue, model="ab"[n % 2]) for n in range(120)]
    done: list[str] = []

    async def work(name: str) -> None:
        w = worker(name, QueueOptions())
        while claims := await w.claim(["a", "b"], 4, 0):
            begun = await w.begin_batch(claims)
            await w.claim_ahead(["a", "b"], 4)
            for one in begun:
                assert await w.finish(one, b"r")
                done.append(one.job_id)

    await asyncio.gather(*(work(f"w{number}") for number in range(6)))
    assert sorted(done) == sorted(submitted)
    await assert_at_rest(redis)
