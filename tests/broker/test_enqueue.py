from __future__ import annotations

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    JobQueue,
    Priority,
    State,
    keys,
    new_job_id,
)
from camserve.errors import IdempotencyConflict
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, begin_one, claim_one, submit

pytestmark = pytest.mark.anyio


async def test_an_accepted_job_is_queued_with_all_it_came_with(queue: JobQueue, redis: Redis):
    job_id = new_job_id(MODEL)
    accepted = await queue.enqueue(
        job_id=job_id,
        priority=Priority.BULK,
        time_to_deadline_ms=5_000,
        payload=b"tensor",
        document=b'{"a": 1}',
        attachments={"picture": b"\x00\xff"},
    )
    assert (accepted.job_id, accepted.duplicate) == (job_id, False)
    record = await queue.get(job_id)
    assert record is not None
    seconds, micros = await redis.time()
    assert abs(record.created_ms - (seconds * 1000 + micros // 1000)) < 1000
    assert record.deadline_ms == record.created_ms + 5_000
    assert (record.state, record.attempts, record.priority) == (State.QUEUED, 0, Priority.BULK)
    assert (record.document, record.model, record.id) == (b'{"a": 1}', MODEL, job_id)
    assert record.started_ms is record.completed_ms is record.failure is record.owner is None
    assert not record.cancel_requested
    assert not record.is_terminal
    assert await queue.attachment(job_id, "picture") == b"\x00\xff"
    assert await queue.attachment(job_id, "other") is None
    assert await queue.result(job_id) is None
    assert await redis.get(keys.payload(MODEL, job_id)) == b"tensor"
    assert await queue.depth(MODEL) == 1


async def test_the_same_id_twice_is_one_job_with_the_first_payload(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue, payload=b"first", attachments={"a": b"first"})
    again = await queue.enqueue(
        job_id=job_id,
        priority=Priority.BULK,
        time_to_deadline_ms=1,
        payload=b"second",
        document=b"second",
        attachments={"a": b"second"},
    )
    assert again.duplicate
    assert again.job_id == job_id
    assert await queue.depth(MODEL) == 1
    assert await queue.attachment(job_id, "a") == b"first"
    begun = await begin_one(worker())
    assert (begun.payload, begun.document) == (b"first", b"{}")
    assert not [name for name in await redis.keys() if b"staged" in name]


async def test_a_repeat_of_a_closed_job_leaves_no_payload(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id = await submit(queue)
    w = worker()
    await w.finish(await begin_one(w), b"r")
    await submit(queue, job_id)
    assert not await redis.exists(keys.payload(MODEL, job_id))
    assert await queue.result(job_id) == b"r"
    assert await queue.depth(MODEL) == 0


async def test_an_idempotency_key_is_one_job(queue: JobQueue):
    same = {"idempotency_key": "k{1}\n", "fingerprint": "f"}
    first = await submit(queue, **same)
    assert await submit(queue, **same) == first
    assert await queue.depth(MODEL) == 1
    with pytest.raises(IdempotencyConflict):
        await submit(queue, idempotency_key="k{1}\n", fingerprint="g")
    assert await submit(queue, idempotency_key="other", fingerprint="f") != first


async def test_an_idempotency_key_of_a_vanished_job_is_free_again(queue: JobQueue, redis: Redis):
    first = await submit(queue, idempotency_key="k", fingerprint="f")
    await redis.delete(keys.job(MODEL, first))
    assert await submit(queue, idempotency_key="k", fingerprint="g") != first


async def test_a_lost_reply_is_no_duplicate(
    queue: JobQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    """redis-py repeats a pipeline whose connection broke after the server had done it."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "same-call")
    job_id = new_job_id(MODEL)
    job = {"job_id": job_id, "priority": Priority.BULK, "time_to_deadline_ms": 9, "document": b""}
    assert not (await queue.enqueue(payload=b"1", **job)).duplicate
    assert not (await queue.enqueue(payload=b"1", **job)).duplicate
    assert await queue.depth(MODEL) == 1


async def test_ids_that_are_none(queue: JobQueue):
    with pytest.raises(ValueError, match="not a job id"):
        await submit(queue, "nonsense")
    for job_id in ("nonsense", new_job_id(MODEL), "", "{}"):
        assert await queue.get(job_id) is None
        assert await queue.result(job_id) is None
        assert await queue.attachment(job_id, "a") is None
        assert await queue.cancel(job_id) is None
        assert await queue.wait(job_id, 5.0) is None


async def test_large_values_arrive_whole(queue: JobQueue, worker: WorkerMaker):
    payload = bytes(range(256)) * 20_000
    job_id = await submit(queue, payload=payload)
    w = worker()
    begun = await w.begin(await claim_one(w))
    assert begun is not None
    assert begun.payload == payload
    assert await w.finish(begun, payload[::-1])
    assert await queue.result(job_id) == payload[::-1]
