"""A job that nobody will ask for again goes before its time, and only when it is closed."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, new_job_id
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, begin_one, submit

pytestmark = pytest.mark.anyio


async def test_it_goes_with_its_result(redis: Redis, queue: JobQueue, worker: WorkerMaker) -> None:
    one = worker()
    job_id = await submit(queue, attachments={"picture": b"p"})
    assert not await queue.discard(job_id)  # queued
    begun = await begin_one(one)
    assert not await queue.discard(job_id)  # running
    assert await one.finish(begun, b"result")
    assert await queue.discard(job_id)
    assert await queue.get(job_id) is None
    assert await queue.result(job_id) is None
    assert await queue.attachment(job_id, "picture") is None
    left = [key async for key in redis.scan_iter("*") if job_id.encode() in key]
    assert left == []
    assert not await queue.discard(job_id)  # twice
    assert not await queue.discard(new_job_id(MODEL))
    assert not await queue.discard("no id")
