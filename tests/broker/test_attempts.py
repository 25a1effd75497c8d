from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from camserve.broker import DeadLetters, JobQueue, QueueOptions, State, WorkerQueue, keys
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    age,
    assert_at_rest,
    begin_one,
    claim_one,
    eventually,
    submit,
    time_passes,
)

pytestmark = pytest.mark.anyio


async def test_a_result_is_committed_once(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    job_id = await submit(queue, attachments={"a": b"1"})
    w = worker()
    begun = await begin_one(w)
    running = await queue.get(job_id)
    assert running is not None
    assert (running.state, running.consumer, running.owner) == ("running", "w1", begun.token)
    assert await w.finish(begun, b"result")
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.SUCCEEDED
    assert record.started_ms is not None
    assert record.completed_ms is not None
    assert record.created_ms <= record.started_ms <= record.completed_ms
    assert await w.finish(begun, b"repeat")  # its own commit, sent again after a lost reply
    assert not await w.extend([begun])
    assert await queue.result(job_id) == b"result"
    assert not await redis.exists(keys.payload(MODEL, job_id))
    await assert_at_rest(redis)


async def test_a_closed_job_and_all_of_it_live_equally_long(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    job_id = await submit(queue, attachments={"a": b"1"}, time_to_deadline_ms=100_000)
    open_for_ms = 100_000 + options.job_ttl_ms
    w = worker()
    begun = await begin_one(w)
    names = [keys.job(MODEL, job_id), keys.attachments(MODEL, job_id)]
    for name in (*names, keys.payload(MODEL, job_id)):
        assert open_for_ms - 5_000 < await redis.pttl(name) <= open_for_ms
    assert await redis.pttl(keys.stream(MODEL, "interactive")) > open_for_ms - 5_000
    await w.finish(begun, b"r")
    for name in (*names, keys.result(MODEL, job_id)):
        assert options.job_ttl_ms - 5_000 < await redis.pttl(name) <= options.job_ttl_ms


async def test_an_attempt_knows_how_long_it_waited_in_its_lane(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    job_id = await submit(queue)
    for name in ("dead", "heir"):  # the heir's wait begins when the job is handed on
        await time_passes(redis)
        begun = await begin_one(worker(name))
        record = await queue.get(job_id)
        assert record is not None
        assert record.started_ms is not None
        assert begun.queued_ms == record.started_ms - int(begun.claim.entry.partition("-")[0])
        assert begun.queued_ms > 0
        await WorkerQueue.release_consumer(redis, options, name, [MODEL])


async def test_a_failure_is_committed(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    job_id = await submit(queue)
    w = worker()
    assert await w.fail(await begin_one(w), b'{"code": "not_explainable", "detail": "why"}')
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.FAILED
    assert record.failure == b'{"code": "not_explainable", "detail": "why"}'
    await assert_at_rest(redis)


async def test_a_stale_owner_commits_nothing(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    job_id = await submit(queue)
    slow, heir = worker("slow"), worker("heir")
    old = await begin_one(slow)
    (claim,) = await eventually(lambda: heir.reclaim([MODEL]))
    assert claim.redelivered
    assert await slow.extend([old]) == []
    new = await heir.begin(claim)
    assert new is not None
    assert (new.redelivered, new.attempts) == (True, 2)
    assert await slow.is_canceled(old)
    assert not await slow.finish(old, b"stale")
    assert not await slow.fail(old, b"stale")
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.owner) == (State.RUNNING, new.token)
    assert await heir.finish(new, b"good")
    assert not await slow.finish(old, b"stale")
    assert await queue.result(job_id) == b"good"
    await assert_at_rest(redis)


async def test_an_entry_that_the_server_hands_out_twice_has_one_owner(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    """After a restart the server may not know of a claim that was younger than its last sync."""
    job_id = await submit(queue)
    first, second = worker("first"), worker("second")
    old = await begin_one(first)
    stream = keys.stream(MODEL, "interactive")
    await redis.xgroup_destroy(stream, keys.GROUP)
    new = await begin_one(second)
    assert new.claim == old.claim
    assert (new.attempts, new.redelivered) == (2, True)
    assert await first.extend([old]) == []
    assert await second.extend([new]) == [new]
    assert not await first.finish(old, b"first")
    assert await second.finish(new, b"second")
    assert await queue.result(job_id) == b"second"
    await assert_at_rest(redis)


async def test_a_late_owner_that_nobody_replaced_yet_may_still_commit(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    slow, heir = worker("slow"), worker("heir")
    old = await begin_one(slow)
    (claim,) = await eventually(lambda: heir.reclaim([MODEL]))
    assert await slow.finish(old, b"late")
    assert await heir.begin(claim) is None
    assert await queue.result(job_id) == b"late"
    await assert_at_rest(redis)


async def test_an_extended_lease_holds(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    options = QueueOptions(lease_s=600)
    for _ in range(2):
        await submit(queue)
    w, other = worker(options=options), worker("other", options)
    first, second = await w.claim([MODEL], 2, 0)
    begun = await w.begin(first)
    assert begun is not None
    for _ in range(3):
        for claim in (first, second):
            await age(redis, claim, "w1", 500)
        assert await w.extend([begun]) == [begun]
        assert await w.extend([second]) == [second]
        assert await other.reclaim([MODEL]) == []
    assert await w.begin(second)
    await age(redis, first, "w1", 700)
    assert [claim.job_id for claim in await other.reclaim([MODEL])] == [first.job_id]


async def test_a_job_past_its_time_limit_is_extended_no_more(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    await submit(queue)
    w = worker(options=QueueOptions(job_time_limit_s=0.01))
    begun = await begin_one(w)
    await asyncio.sleep(0.02)
    assert await w.extend([begun]) == []


async def test_reclaim_puts_all_back_and_takes_what_there_is_room_for(
    queue: JobQueue, worker: WorkerMaker
):
    for _ in range(3):
        await submit(queue)
    dead, heir = worker("dead"), worker("heir")
    begun = await dead.begin_batch((await dead.claim([MODEL], 3, 0))[:2])
    await asyncio.sleep(0.25)
    assert await heir.reclaim([MODEL], limit=0) == []
    taken = [await heir.claim([MODEL], 8, 0) for _ in range(4)]
    assert [len(batch) for batch in taken] == [1, 1, 1, 0]
    assert [batch[0].redelivered for batch in taken[:3]] == [True, True, False]
    assert {batch[0].job_id for batch in taken[:2]} == {one.job_id for one in begun}


async def test_a_poison_job_dies_alone_and_leaves_a_letter(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, options: QueueOptions
):
    poison, mates = await submit(queue), [await submit(queue) for _ in range(3)]
    runs: dict[str, int] = {}
    for round_ in range(40):
        name = f"w{round_}"
        w = worker(name)
        batch = await w.begin_batch(await w.claim([MODEL], 8, 0))
        for begun in batch:
            runs[begun.job_id] = runs.get(begun.job_id, 0) + 1
        if poison in [begun.job_id for begun in batch]:
            await WorkerQueue.release_consumer(redis, options, name, [MODEL])
            continue
        for begun in batch:
            assert await w.finish(begun, b"r")
        if await queue.depth(MODEL) == 0:
            break
    assert runs == {poison: options.max_attempts} | dict.fromkeys(mates, 2)
    for mate in mates:
        assert await queue.result(mate) == b"r"
    record = await queue.get(poison)
    assert record is not None
    assert (record.state, record.attempts) == (State.DEAD, options.max_attempts)
    assert json.loads(record.failure or b"")["code"] == "dead_lettered"
    (letter,) = (await DeadLetters(redis, options).page(10)).letters
    assert (letter.id, len(letter.attempts)) == (poison, options.max_attempts)
    assert await redis.get(keys.payload(MODEL, poison)) == b"payload"  # for a replay
    await assert_at_rest(redis)


async def test_an_expired_job_never_begins(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    job_id = await submit(queue, time_to_deadline_ms=10)
    w = worker()
    claim = await claim_one(w)
    await asyncio.sleep(0.02)
    assert await w.begin(claim) is None
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.attempts) == (State.EXPIRED, 0)
    assert json.loads(record.failure or b"")["code"] == "deadline_exceeded"
    await assert_at_rest(redis)


async def test_begin_repeated_after_a_lost_reply_is_one_attempt(
    queue: JobQueue, worker: WorkerMaker
):
    """Whether the client library sends it again, or the worker after an outage."""
    await submit(queue)
    w = worker()
    claim = await claim_one(w)
    first, second = await w.begin(claim), await w.begin(claim)
    assert first is not None
    assert second is not None
    assert first.attempts == second.attempts == 1
    assert await w.finish(second, b"r")


async def test_a_job_without_its_payload_fails(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    job_id = await submit(queue)
    await redis.delete(keys.payload(MODEL, job_id))
    w = worker()
    assert await w.begin(await claim_one(w)) is None
    record = await queue.get(job_id)
    assert record is not None
    assert record.state is State.FAILED
