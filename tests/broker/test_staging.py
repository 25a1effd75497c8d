"""What waits to be enqueued has an end, wherever the connection is cut."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from camserve.broker import (
    JobQueue,
    Priority,
    QueueOptions,
    State,
    connect,
    job_queue,
    keys,
    new_job_id,
)
from camserve.broker.scripts import call, execute
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, begin_one, submit

pytestmark = pytest.mark.anyio


async def test_a_connection_that_is_cut_leaves_no_picture_without_an_end(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    """What is staged is one transaction: the server has all of it, with its time to live, or none.

    Cut after each prefix of the commands that an enqueue sends.
    """
    sent: list[list[tuple[Any, ...]]] = []
    monkeypatch.setattr(job_queue, "execute", lambda _, *commands: record(sent, commands))
    async with connect(redis_url) as redis:
        queue = JobQueue(redis, QueueOptions())
        with contextlib.suppress(ValueError):
            await queue.enqueue(
                job_id=new_job_id("m"),
                priority=Priority.BULK,
                time_to_deadline_ms=1000,
                payload=b"p",
                document=b"{}",
                attachments={"picture.0": b"x"},
            )
    (commands,) = sent
    with blocking.Redis.from_url(redis_url) as raw:
        for count in range(len(commands)):
            raw.flushall()
            connection = raw.connection_pool.make_connection()
            connection.connect()
            for command in commands[:count]:
                if command[0] != "EVALSHA":
                    connection.send_command(*command)
                    connection.read_response()
            connection.disconnect()
            assert all(raw.ttl(key) > 0 for key in raw.scan_iter("*"))


async def test_a_result_that_was_evicted_before_its_commit_leaves_the_job_as_it_was(
    queue: JobQueue, redis: Redis, worker: WorkerMaker
):
    job_id = await submit(queue)
    begun = await begin_one(worker())
    before = await redis.hgetall(keys.job(MODEL, job_id)), await redis.hgetall(keys.pace(MODEL))
    names = [keys.prefix(MODEL), keys.staged(MODEL, job_id, begun.token)]
    with pytest.raises(ResponseError):
        await execute(redis, call("finish", names, job_id, begun.token, "succeeded", 60_000, ""))
    after = await redis.hgetall(keys.job(MODEL, job_id)), await redis.hgetall(keys.pace(MODEL))
    assert after == before
    assert await worker().finish(begun, b"once more")
    closed = await queue.get(job_id)
    assert closed is not None
    assert closed.state is State.SUCCEEDED
    assert await queue.result(job_id) == b"once more"


async def record(sent: list[list[tuple[Any, ...]]], commands: tuple[tuple[Any, ...], ...]) -> Any:
    sent.append(list(commands))
    raise ValueError
