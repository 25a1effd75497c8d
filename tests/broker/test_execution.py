"""Jobs that name the device to be executed on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, Priority, QueueOptions, State, WorkerQueue, keys
from camserve.errors import IdempotencyConflict, QueueFull
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    blocked,
    claim_one,
    eventually,
    submit,
)

pytestmark = pytest.mark.anyio

BULK = Priority.BULK
FITTING = {
    "cpu": {"auto", "cpu"},
    "cuda:0": {"auto", "cuda", "cuda:0"},
    "cuda:1": {"auto", "cuda", "cuda:1"},
    "mps": {"auto"},
}
EXECUTIONS = ["auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:2"]


async def submit_later(queue: JobQueue, redis: Redis, **changes: Any) -> str:
    """A job that came at least a millisecond after all others: they have an order by time."""
    start_ms = await _now_ms(redis)

    async def has_passed() -> bool:
        return await _now_ms(redis) > start_ms

    await eventually(has_passed)
    return await submit(queue, **changes)


async def _now_ms(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def expire(queue: JobQueue, redis: Redis, *job_ids: str) -> None:
    """As if their deadlines and a lease more had passed."""
    for job_id in job_ids:
        assert await redis.hset(keys.job(MODEL, job_id), "deadline_ms", 0) == 0
    assert await queue.reap() == len(job_ids)


@pytest.mark.parametrize("priority", list(Priority))
@pytest.mark.parametrize("device", list(FITTING))
async def test_a_worker_claims_what_fits_its_device_and_nothing_else(
    queue: JobQueue, worker: WorkerMaker, device: str, priority: Priority
):
    ids = {one: await submit(queue, execution=one, priority=priority) for one in EXECUTIONS}
    names = {job_id: one for one, job_id in ids.items()}
    w = worker(device=device)
    first = await w.claim([MODEL], 2, 0)
    claims = [*first, *await w.claim([MODEL], 8, 0), *await w.claim([MODEL], 8, 0.01)]
    assert {names[claim.job_id] for claim in claims} == FITTING[device]
    assert len(claims) == len(FITTING[device])
    assert not any(claim.redelivered for claim in claims)
    for begun in await w.begin_batch(claims):
        assert await w.extend([begun]) == [begun]
        assert await w.finish(begun, b"r")
    assert await queue.depth(MODEL) == len(EXECUTIONS) - len(claims)


async def test_a_malformed_execution_is_refused_and_leaves_nothing(queue: JobQueue, redis: Redis):
    with pytest.raises(ValueError, match="not an execution: 'cuda:x'"):
        await submit(queue, execution="cuda:x")
    assert await redis.keys() == []


async def test_naming_a_device_neither_gains_nor_loses_a_place(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    mixed = ["auto", "cpu", "cpu", "auto", "auto", "cpu", "auto", "cpu"]
    bulk = [await submit_later(queue, redis, execution=one, priority=BULK) for one in mixed]
    quick = [await submit_later(queue, redis, execution=one) for one in mixed]
    w = worker()
    batches = [await w.claim([MODEL], limit, 0) for limit in (1, 1, 1, 3, 4, 2, 8, 8)]
    assert (
        [[claim.job_id for claim in batch] for batch in batches]
        == [
            *([job_id] for job_id in quick[:3]),
            quick[3:6],
            [*quick[6:], *bulk[:2]],  # topped up with bulk once nothing interactive waits
            bulk[2:4],
            bulk[4:],
            [],
        ]
    )


async def test_what_others_already_hold_is_not_in_the_line(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    early = [await submit_later(queue, redis, execution=one) for one in ("cpu", "auto", "cpu")]
    held = await worker("w1").claim([MODEL], 3, 0)
    late = [await submit_later(queue, redis, execution=one) for one in ("auto", "cpu", "auto")]
    assert [claim.job_id for claim in held] == early
    assert [claim.job_id for claim in await worker("w2").claim([MODEL], 2, 0)] == late[:2]


async def test_a_redelivered_job_that_names_a_device_goes_first_and_alone(
    queue: JobQueue, redis: Redis, options: QueueOptions, worker: WorkerMaker
):
    lost = [await submit_later(queue, redis, execution=one) for one in ("cpu", "auto", "cpu")]
    dead = worker("dead")
    await dead.begin_batch(await dead.claim([MODEL], 3, 0))
    waiting = [await submit_later(queue, redis, execution=one) for one in ("auto", "cpu")]
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    heir = worker("heir")
    batches = [await heir.claim([MODEL], 8, 0) for _ in range(4)]
    assert sorted(batch[0].job_id for batch in batches[:3]) == sorted(lost)
    for batch in batches[:3]:
        assert len(batch) == 1
        assert batch[0].redelivered
    assert [claim.job_id for claim in batches[3]] == waiting


@pytest.mark.parametrize("named", ["cuda", "cuda:1"])
@pytest.mark.parametrize("priority", list(Priority))
async def test_a_waiting_worker_wakes_for_its_device_and_not_for_another(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, named: str, priority: Priority
):
    cpu = asyncio.create_task(worker("cpu", device="cpu").claim([MODEL], 8, 2.0))
    gpu = asyncio.create_task(worker("gpu", device="cuda:1").claim(["other", MODEL], 8, 2.0))
    await blocked(redis, 2)
    foreign = await submit(queue, execution="cuda:0", priority=priority)
    own = await submit(queue, execution=named, priority=priority)
    assert [claim.job_id for claim in await gpu] == [own]
    assert not cpu.done()
    last = await submit(queue, execution="cpu", priority=priority)
    assert [claim.job_id for claim in await cpu] == [last]
    (claim,) = await worker("other", device="cuda:0").claim([MODEL], 8, 0)
    assert claim.job_id == foreign


async def test_what_a_waiting_read_brings_along_is_served_by_rank(
    queue: JobQueue, worker: WorkerMaker
):
    w = worker(device="cuda:0")
    await w.claim([MODEL], 1, 0.001)  # makes the lanes
    ids = {
        (one, priority): await submit(queue, execution=one, priority=priority)
        for priority in (BULK, Priority.INTERACTIVE)
        for one in ("cuda:0", "auto", "cuda")
    }
    first = await w._source._block([MODEL], 0.1)
    assert first is not None
    served = [first, *[(await w.claim([MODEL], 1, 0.1))[0] for _ in range(5)]]
    assert {claim.job_id for claim in served} == set(ids.values())
    ranks = [keys.rank(claim.lane) for claim in served]
    assert ranks == ["interactive"] * 3 + ["bulk"] * 3


async def test_depth_and_cap_count_jobs_of_all_devices(redis: Redis, worker: WorkerMaker):
    queue = JobQueue(redis, QueueOptions(depth_cap=4))
    for execution in ("auto", "cpu", "cuda:1"):
        await submit(queue, execution=execution, priority=BULK)
    gpu = worker(device="cuda:7")
    running = await submit(queue, execution="cuda:7")
    begun = await begin_one(gpu)
    assert begun.job_id == running
    assert await queue.depth(MODEL) == 4
    for execution in ("auto", "cuda:7", "cuda:99"):
        with pytest.raises(QueueFull) as refused:
            await submit(queue, execution=execution)
        assert refused.value.extensions["limit"] == 4
    assert await gpu.finish(begun, b"r")
    await submit(queue, execution="cuda:99")
    assert await queue.depth(MODEL) == 4


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
    job_id = await submit(queue, execution="cuda:1")
    for attempt in range(options.max_attempts):
        w = worker(f"w{attempt}", device="cuda:1")
        assert (await begin_one(w)).attempts == attempt + 1
        await WorkerQueue.release_consumer(redis, options, f"w{attempt}", [MODEL])
    w = worker("last", device="cuda:1")
    assert await w.begin(await claim_one(w)) is None
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.attempts) == (State.DEAD, options.max_attempts)
    (letter,) = await redis.lrange(keys.dead_letters(MODEL), 0, -1)
    assert json.loads(letter)["id"] == job_id
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


async def test_a_canceled_job_leaves_its_lane_and_never_runs(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    job_id = await submit(queue, execution="cuda")
    record = await queue.cancel(job_id)
    assert record is not None
    assert record.state is State.CANCELED
    assert await worker(device="cuda:0").claim([MODEL], 1, 0) == []
    await assert_at_rest(redis)


async def test_one_idempotency_key_is_one_job_wherever_it_is_executed(
    queue: JobQueue, worker: WorkerMaker
):
    """Whether another execution is another request, the fingerprint says."""
    key = {"idempotency_key": "k"}
    first = await submit(queue, **key, fingerprint="same", execution="cuda:1")
    assert await submit(queue, **key, fingerprint="same", execution="cpu") == first
    with pytest.raises(IdempotencyConflict):
        await submit(queue, **key, fingerprint="another", execution="cpu")
    assert await submit(queue, first, execution="auto") == first  # the same id, too
    assert await queue.depth(MODEL) == 1
    assert await worker("cpu").claim([MODEL], 8, 0) == []
    assert (await claim_one(worker(device="cuda:1"))).job_id == first


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
