"""Worker processes that are killed or stopped for real."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, State, WorkerQueue
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, eventually, submit

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, sys
from camserve.broker import QueueOptions, WorkerQueue, connect

async def main():
    async with connect(sys.argv[1]) as redis:
        queue = WorkerQueue(redis, QueueOptions(lease_s=0.2), "child")
        claims = await queue.claim([sys.argv[2]], 8, 2.0)
        begun = await queue.begin_batch(claims)
        print("begun", len(begun), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for one in begun:
            print(await queue.finish(one, b"child"), flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def child(redis_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that begins what there is, and finishes it when it gets a line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, redis_url, MODEL),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def says(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    return (await child.stdout.readline()).decode().strip()


async def test_what_a_killed_worker_ran_is_run_again(
    queue: JobQueue,
    redis: Redis,
    options: QueueOptions,
    worker: WorkerMaker,
    child: asyncio.subprocess.Process,
):
    job_id = await submit(queue)
    assert await says(child) == "begun 1"
    child.kill()
    await child.wait()
    assert await WorkerQueue.release_consumer(redis, options, "child", [MODEL]) == 1
    heir = worker("heir")
    begun = await begin_one(heir)
    assert (begun.job_id, begun.redelivered) == (job_id, True)
    assert await heir.finish(begun, b"heir")
    await assert_at_rest(redis)


async def test_a_worker_that_was_stopped_past_its_lease_commits_nothing(
    queue: JobQueue,
    redis: Redis,
    worker: WorkerMaker,
    child: asyncio.subprocess.Process,
):
    job_id = await submit(queue)
    assert await says(child) == "begun 1"
    os.kill(child.pid, signal.SIGSTOP)
    heir = worker("heir")
    (claim,) = await eventually(lambda: heir.reclaim([MODEL]))
    begun = await heir.begin(claim)
    assert begun is not None
    os.kill(child.pid, signal.SIGCONT)
    assert child.stdin is not None
    child.stdin.write(b"go on\n")
    assert await says(child) == "False"
    assert await heir.finish(begun, b"heir")
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.attempts) == (State.SUCCEEDED, 2)
    assert await queue.result(job_id) == b"heir"
    await assert_at_rest(redis)
