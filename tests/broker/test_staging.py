"""What waits to be enqueued has an end, wherever the connection is cut."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis as blocking

from camserve.broker import JobQueue, Priority, QueueOptions, connect, job_queue, new_job_id

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


async def record(sent: list[list[tuple[Any, ...]]], commands: tuple[tuple[Any, ...], ...]) -> Any:
    sent.append(list(commands))
    raise ValueError
