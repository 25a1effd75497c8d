from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    LONGEST_BLOCK_S,
    Claim,
    JobQueue,
    Priority,
    QueueOptions,
    WorkerQueue,
    keys,
)
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    blocked,
    claim_one,
    submit,
    time_passes,
)

pytestmark = pytest.mark.anyio

BULK = Priority.BULK


async def test_interactive_goes_before_bulk_and_the_batch_is_topped_up(
    queue: JobQueue, worker: WorkerMaker
):
    bulk = [await submit(queue, priority=BULK) for _ in range(3)]
    quick = [await submit(queue) for _ in range(2)]
    w = worker()
    assert [c.job_id for c in await w.claim([MODEL], 4, 0)] == [*quick, *bulk[:2]]
    assert [c.job_id for c in await w.claim([MODEL], 4, 0)] == bulk[2:]
    assert await w.claim([MODEL], 4, 0) == []


async def test_one_batch_is_of_one_model_and_models_take_turns(
    queue: JobQueue, worker: WorkerMaker
):
    for _ in range(4):
        await submit(queue, model="a")
    b, c = await submit(queue, model="b"), await submit(queue, model="c", priority=BULK)
    w = worker()
    batches = [await w.claim(["a", "b", "c"], 2, 0) for _ in range(4)]
    assert [[claim.model for claim in batch] for batch in batches] == [
        ["a", "a"],
        ["b"],  # in turn, although more of a wait
        ["a", "a"],
        ["c"],  # bulk after all that is interactive
    ]
    assert [batches[1][0].job_id, batches[3][0].job_id] == [b, c]


async def test_an_idle_worker_wakes_at_once_and_tops_up(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    waiting = asyncio.create_task(worker().claim(["other", MODEL], 8, LONGEST_BLOCK_S))
    await blocked(redis, 1)
    job_id = await submit(queue)
    assert [c.job_id for c in await waiting] == [job_id]


async def test_an_idle_worker_gives_up_after_a_while(worker: WorkerMaker):
    assert await worker().claim([MODEL], 1, 0.02) == []
    assert await worker().claim([], 1, 0.02) == []


async def leased_at_ms(redis: Redis, claim: Claim) -> int:
    """When the lease of a claim was last begun or extended, by the server's clock."""
    async with redis.pipeline(transaction=True) as at_once:
        at_once.time()
        stream = keys.stream(claim.model, claim.lane)
        at_once.xpending_range(stream, keys.GROUP, claim.entry, claim.entry, 1)
        (seconds, micros), (pending,) = await at_once.execute()
    return int(seconds) * 1000 + int(micros) // 1000 - int(pending["time_since_delivered"])


async def test_what_came_along_is_kept_leased_and_served_next(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    """XREADGROUP COUNT 1 answers one entry per stream: here jobs came just before it blocked."""
    w = worker(options=replace(options, lease_s=10))
    await w.claim(["a", "b"], 1, 0)  # makes the groups
    ids = {
        await submit(queue, model="a"),
        await submit(queue, model="a", priority=BULK),
        await submit(queue, model="b"),
    }
    source = w._source
    first = await source._block(["a", "b"], keys.RANKS, 0.1)
    assert first is not None
    assert len(source.reserve) == 2
    before_ms = [await leased_at_ms(redis, one) for one in (first, *source.reserve)]
    await time_passes(redis)
    assert await w.extend([first]) == [first]
    after_ms = [await leased_at_ms(redis, one) for one in (first, *source.reserve)]
    assert min(after_ms) > max(before_ms)  # the extension reached the reserve
    second = await w.claim(["a", "b"], 1, 0)
    assert len(second) == 1
    begun = await w.begin_batch([first, *second])
    assert len(begun) == 2
    for one in begun:
        assert await w.finish(one, b"r")
    await w.release()  # the rest goes back
    left = await worker("w2").claim(["a", "b"], 8, 0)
    assert {first.job_id, second[0].job_id, left[0].job_id} == ids


async def test_a_released_claim_is_had_by_another_at_once(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    job_id = await submit(queue, priority=BULK)
    w1, w2 = worker("w1"), worker("w2")
    claim = await claim_one(w1)
    waiting = asyncio.create_task(w2.claim([MODEL], 1, LONGEST_BLOCK_S))
    await blocked(redis, 1)
    await w1.release([claim])
    (taken,) = await waiting
    assert taken.job_id == job_id
    assert not taken.redelivered
    assert await w1.begin(claim) is None  # no longer ours
    begun = await w2.begin(taken)
    assert begun is not None
    assert begun.attempts == 1
    await w1.release([claim])  # releasing what is lost does nothing
    assert await queue.depth(MODEL) == 1


async def test_what_a_dead_worker_held_goes_back_at_once(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, options: QueueOptions
):
    begun_id, waiting_id = await submit(queue), await submit(queue, priority=BULK)
    dead, heir = worker("dead"), worker("heir")
    claims = await dead.claim([MODEL], 8, 0)
    lost = await dead.begin(claims[0])
    assert lost is not None
    back = await WorkerQueue.release_consumer(redis, options, "dead", [MODEL, "other"])
    assert back == 2
    first = await heir.claim([MODEL], 8, 0)
    assert [(c.job_id, c.redelivered) for c in first] == [(begun_id, True)]  # alone
    second = await heir.claim([MODEL], 8, 0)
    assert [(c.job_id, c.redelivered) for c in second] == [(waiting_id, False)]
    for claim in (*first, *second):
        begun = await heir.begin(claim)
        assert begun is not None
        assert begun.redelivered == claim.redelivered
        assert begun.attempts == 1 + claim.redelivered
        assert await heir.finish(begun, b"heir")
    assert not await dead.finish(lost, b"dead")
    assert await queue.result(begun_id) == b"heir"
    for lane in ("interactive", "bulk", "redelivered"):
        consumers = await redis.xinfo_consumers(f"cam:{{{MODEL}}}:stream:{lane}", "workers")
        assert b"dead" not in [one["name"] for one in consumers]
    await assert_at_rest(redis)


async def test_every_worker_gets_its_share_of_redelivered_jobs(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    for _ in range(3):
        await submit(queue)
    dead = worker("dead")
    await dead.begin_batch(await dead.claim([MODEL], 3, 0))
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    for name in ("a", "b", "c"):
        begun = await begin_one(worker(name))
        assert begun.redelivered


async def test_consumers_long_gone_are_forgotten_and_live_ones_come_back(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    patient, gone = worker("patient"), worker("gone")
    for w in (patient, gone):
        await submit(queue)
        assert await w.finish(await begin_one(w), b"r")
    await submit(queue)
    held = await begin_one(worker("holder"))
    waiting = asyncio.create_task(patient.claim([MODEL], 1, LONGEST_BLOCK_S))
    await blocked(redis, 1)

    async def names() -> set[bytes]:
        stream = keys.stream(MODEL, "interactive")
        return {one["name"] for one in await redis.xinfo_consumers(stream, keys.GROUP)}

    assert await names() == {b"patient", b"gone", b"holder"}
    await asyncio.sleep(0.05)
    # Who comes to wait looks for those that were not heard of for as long as a job can be read.
    await worker("new", QueueOptions(job_ttl_s=0.04)).claim([MODEL], 1, 0.01)
    assert await names() - {b"new"} == {b"holder"}
    job_id = await submit(queue)
    (claim,) = await waiting
    assert claim.job_id == job_id
    for begun in (held, await patient.begin(claim)):
        assert begun is not None
        assert await patient.finish(begun, b"r")


async def test_a_waiting_worker_keeps_its_lanes_and_makes_lost_ones_anew(
    queue: JobQueue, redis: Redis, worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
):
    now_s = 1000.0
    monkeypatch.setattr(
        "camserve.broker.claim_source.time", SimpleNamespace(monotonic=lambda: now_s)
    )
    w = worker()
    assert await w.claim([MODEL], 1, 0.01) == []
    streams = await redis.keys("*:stream:*")
    assert len(streams) == 6  # three ranks, with and without the device
    for stream in streams:
        assert await redis.pexpire(stream, 10_000)
    now_s += 29  # not yet half of the 60 s that a closed job can be read
    assert await w.claim([MODEL], 1, 0.01) == []
    assert max([await redis.pttl(stream) for stream in streams]) <= 10_000
    now_s += 2
    assert await w.claim([MODEL], 1, 0.01) == []
    assert min([await redis.pttl(stream) for stream in streams]) > 50_000
    await redis.delete(*streams)
    waiting = asyncio.create_task(w.claim([MODEL], 1, LONGEST_BLOCK_S))
    await blocked(redis, 1)
    job_id = await submit(queue)
    assert [claim.job_id for claim in await waiting] == [job_id]
