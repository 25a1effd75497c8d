"""Jobs that name the device to be executed on: who claims them, and in which order."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    LONGEST_BLOCK_S,
    JobQueue,
    Priority,
    QueueOptions,
    State,
    WorkerQueue,
    keys,
)
from camserve.errors import IdempotencyConflict, QueueFull
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    blocked,
    claim_one,
    submit,
    submit_later,
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
    cpu = asyncio.create_task(worker("cpu", device="cpu").claim([MODEL], 8, LONGEST_BLOCK_S))
    gpu = asyncio.create_task(
        worker("gpu", device="cuda:1").claim(["other", MODEL], 8, LONGEST_BLOCK_S)
    )
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
    first = await w._source._block([MODEL], w._source._lanes, 0.1)
    assert first is not None
    served = [first, *[(await w.claim([MODEL], 1, 0.1))[0] for _ in range(5)]]
    assert {claim.job_id for claim in served} == set(ids.values())
    ranks = [keys.rank(claim.lane) for claim in served]
    assert ranks == ["interactive"] * 3 + ["bulk"] * 3


async def test_depth_and_cap_count_jobs_of_all_devices(redis: Redis, worker: WorkerMaker):
    queue = JobQueue(redis, QueueOptions(depth_cap=4))
    for execution in ("auto", "cpu", "cuda:1"):
        await submit(queue, execution=execution)
    gpu = worker(device="cuda:7")
    await submit(queue, execution="cuda:7")
    begun = await begin_one(gpu)
    assert await queue.depth(MODEL) == 4
    for execution in ("auto", "cuda:7", "cuda:99"):
        with pytest.raises(QueueFull) as refused:
            await submit(queue, execution=execution)
        assert refused.value.extensions["limit"] == 4
    assert await gpu.finish(begun, b"r")
    await submit(queue, execution="cuda:99")
    assert await queue.depth(MODEL) == 4


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
