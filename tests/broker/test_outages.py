"""The server goes away, dies, restarts, or forgets everything."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, QueueOptions, Registry, State, WorkerQueue, connect, scripts
from camserve.broker.embedded import EmbeddedServer
from camserve.errors import QueueUnavailable
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, claim_one, eventually, submit

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(binary: Path, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of its own, to be ill-treated."""
    with EmbeddedServer(tmp_path / "server", binary) as started:
        yield started


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as client:
        yield client


async def kill(server: EmbeddedServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    assert not server.is_alive()


async def is_synced(redis: Redis) -> bool:
    """Whether everything so far is on disk (it is synced each second)."""
    state = await redis.info("persistence")
    return not state["aof_pending_bio_fsync"] and not state["aof_buffer_length"]


async def test_a_server_that_is_away_is_said_so_quickly(
    tmp_path: Path, options: QueueOptions, monkeypatch: pytest.MonkeyPatch
):
    """After a few attempts, with pauses of less than half a second."""
    pauses_s: list[float] = []

    async def pause(seconds: float) -> None:
        pauses_s.append(seconds)

    monkeypatch.setattr("redis.asyncio.retry.sleep", pause)
    for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1"):
        async with connect(url) as client:
            queue, registry = JobQueue(client, options), Registry(client, options)
            worker = WorkerQueue(client, options, "w")
            for attempt in (
                submit(queue),
                queue.get("01JD8Q4V1N0Z7M3K5T9W2XACBE-m"),
                queue.wait("01JD8Q4V1N0Z7M3K5T9W2XACBE-m", 0.2),
                queue.reap(),
                registry.cards(),
                registry.heartbeat("w", b""),
                worker.claim([MODEL], 1, 1.0),
                worker.reclaim([MODEL]),
            ):
                pauses_s.clear()
                with pytest.raises(QueueUnavailable):
                    await attempt
                assert sum(pauses_s) < 0.5


async def test_a_server_that_hangs_is_given_up_and_found_again(
    server: EmbeddedServer, options: QueueOptions
):
    assert server.pid is not None
    async with connect(server.url) as first:
        job_id = await submit(JobQueue(first, options))
    async with (
        connect(f"{server.url}?socket_timeout=0.5") as client,
        connect(f"{server.url}?socket_timeout=1000") as patient,
    ):
        queue = JobQueue(client, options)
        assert await eventually(lambda: found(queue, job_id))  # connected, in time
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(QueueUnavailable):
            await queue.get(job_id)
        with pytest.raises(QueueUnavailable):  # a wait has an end, whatever the socket's patience
            await JobQueue(patient, options).wait(job_id, 0.2)
        os.kill(server.pid, signal.SIGCONT)
        assert await eventually(lambda: found(queue, job_id))


async def found(queue: JobQueue, job_id: str) -> bool:
    try:
        return await queue.get(job_id) is not None
    except QueueUnavailable:  # on a busy machine an answer may take longer than this socket waits
        return False


@pytest.mark.parametrize("greets", [False, True])
async def test_a_server_that_is_silent_is_waited_for_once(
    tmp_path: Path, options: QueueOptions, greets: bool
):
    """Be it silent from the greeting of a new connection on, or only then when it is asked."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while command := await reader.read(10_000):
            if greets:
                writer.write(b"+OK\r\n" * command.count(b"SETINFO"))
        writer.close()

    path = tmp_path / "silent.sock"
    async with (
        await asyncio.start_unix_server(serve, path),
        connect(f"unix://{path}?socket_timeout=0.2") as client,
    ):
        with pytest.raises(QueueUnavailable):
            await JobQueue(client, options).get("01JD8Q4V1N0Z7M3K5T9W2XACBE-m")
    assert connections == 1


async def test_a_command_whose_connection_breaks_is_sent_again(
    tmp_path: Path, options: QueueOptions
):
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        is_first = connections == 1
        while command := await reader.read(10_000):
            if b"HGETALL" not in command:
                writer.write(b"+OK\r\n" * command.count(b"SETINFO"))
            elif is_first:
                break
            else:
                writer.write(b"*0\r\n$0\r\n\r\n")  # no record, and no result
        writer.close()

    path = tmp_path / "broken.sock"
    async with await asyncio.start_unix_server(serve, path), connect(f"unix://{path}") as client:
        assert await JobQueue(client, options).get("01JD8Q4V1N0Z7M3K5T9W2XACBE-m") is None
    assert connections == 2


async def test_a_front_end_starts_without_the_server_and_recovers(
    server: EmbeddedServer, options: QueueOptions, worker: WorkerMaker
):
    url = server.url
    await kill(server)
    async with connect(url) as client:
        starting = asyncio.create_task(JobQueue(client, options).__aenter__())
        await asyncio.sleep(0.05)
        server.start()
        queue = await starting
        job_id = await submit(queue)
        waiting = asyncio.create_task(queue.wait(job_id, 5))
        w = worker()
        await w.finish(await begin_one(w), b"r")
        assert await waiting
        await eventually(lambda: _is_confirmed(queue))
        await queue.aclose()


async def _is_confirmed(queue: JobQueue) -> bool:
    return queue._notifications._confirmed.is_set()


async def test_kill_and_restart_in_the_middle_of_a_job(
    server: EmbeddedServer, queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    running_id, queued_id = await submit(queue), await submit(queue)
    w = worker(options=QueueOptions(commit_patience_s=20))
    begun = await begin_one(w)
    waiting = asyncio.create_task(queue.wait(running_id, 20))
    await eventually(lambda: is_synced(redis))
    await kill(server)
    committing = asyncio.create_task(w.finish(begun, b"r"))  # tries on through the outage
    with pytest.raises(QueueUnavailable):
        await queue.get(queued_id)
    await asyncio.sleep(0.05)
    assert not committing.done()
    assert not waiting.done()
    server.start()
    assert await committing
    record = await waiting
    assert record is not None
    assert record.state is State.SUCCEEDED
    assert await queue.result(running_id) == b"r"
    # A connection that was there before, a script that the new process does not know: all mended.
    assert await w.finish(await begin_one(w), b"second")
    assert await queue.result(queued_id) == b"second"
    await assert_at_rest(redis)


async def test_a_worker_that_waits_for_work_survives_a_restart(
    server: EmbeddedServer, queue: JobQueue, worker: WorkerMaker
):
    async def work() -> None:
        w = worker()
        while True:
            try:
                for claim in await w.claim([MODEL], 1, 1.0):
                    begun = await w.begin(claim)
                    if begun:
                        await w.finish(begun, b"r")
            except QueueUnavailable:
                await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    await kill(server)
    await asyncio.sleep(0.05)
    server.start()
    record = await queue.wait(await submit(queue), 10)
    assert not working.done(), working.exception()
    assert record is not None
    assert record.state is State.SUCCEEDED
    working.cancel()
    await asyncio.wait([working])


async def test_a_server_that_restarts_while_it_is_taught_the_scripts_is_away(
    queue: JobQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    send = scripts._send

    async def forgotten(redis: Redis, commands: Any) -> Any:
        await redis.script_flush()
        return await send(redis, commands)

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "_send", forgotten)
        with pytest.raises(QueueUnavailable):
            await submit(queue)
    assert await submit(queue)


async def test_a_commit_gives_up_after_a_while(
    server: EmbeddedServer, queue: JobQueue, worker: WorkerMaker
):
    await submit(queue)
    w = worker(options=QueueOptions(commit_patience_s=0.2))
    begun = await begin_one(w)
    await kill(server)
    with pytest.raises(QueueUnavailable):
        await w.finish(begun, b"r")


async def test_everything_is_forgotten_in_the_middle_of_a_job(
    queue: JobQueue, worker: WorkerMaker, redis: Redis
):
    job_id, unstarted = await submit(queue), await submit(queue)
    w = worker()
    begun = await begin_one(w)
    claim = await claim_one(w)
    waiting = asyncio.create_task(queue.wait(job_id, 20))
    idle = asyncio.create_task(worker("idle").claim([MODEL], 1, 1.0))
    await asyncio.sleep(0.05)
    await redis.flushall()
    assert await asyncio.wait_for(waiting, 5) is None
    assert not await w.finish(begun, b"r")
    assert not await w.fail(begun, b"f")
    assert await w.extend([begun]) == []
    assert await w.extend([claim]) == []
    assert await w.begin(claim) is None
    await w.release([claim])
    assert await w.reclaim([MODEL]) == []
    assert await w.is_canceled(begun)
    assert await idle in ([], None)
    assert not await redis.keys("*:out:*")
    # The caller enqueues the same ids again, and all goes on.
    for lost in (job_id, unstarted):
        assert await submit(queue, lost) == lost
        assert await w.finish(await begin_one(w), b"again")
        assert await queue.result(lost) == b"again"
    await assert_at_rest(redis)


async def test_a_server_that_cannot_write_is_unavailable(queue: JobQueue, redis: Redis):
    await redis.set("ballast", bytes(2_000_000), ex=60)
    await redis.config_set("maxmemory", "1mb")  # noeviction, as the embedded server is set up
    with pytest.raises(QueueUnavailable):
        await submit(queue)
    await redis.config_set("maxmemory", "0")
    await submit(queue)


async def test_cut_connections_are_replaced(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, server: EmbeddedServer
):
    w = worker()
    async with connect(server.url) as saboteur:
        for _ in range(10):
            job_id = await submit(queue)
            waiting = asyncio.create_task(queue.wait(job_id, 10))
            pipeline = saboteur.pipeline()
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            begun = await begin_one(w)
            await pipeline.execute()
            assert await w.finish(begun, b"r")
            assert await waiting
    await assert_at_rest(redis)
