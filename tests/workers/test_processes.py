"""Supervisor and child as real processes on a real server, and what may befall them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from camserve.broker import DeadLetters, JobQueue, JobRecord, Registry, connect, keys
from camserve.broker.embedded import EmbeddedServer
from camserve.contracts.cards import WorkerStatus
from camserve.contracts.states import State
from camserve.queueing import queue_options
from tests.service import ROOT
from tests.workers.cards import TINY, factory_card, settings, write_model
from tests.workers.factories import DEADLY, EXACT, HANGING, SLOW
from tests.workers.jobs import enqueue, failure, noise, read
from tests.workers.processes import Workers, environment, run_module

pytestmark = pytest.mark.anyio

LIMITS = {"job_time_limit_s": 5, "max_attempts": 2, "drain_s": 5, "lease_s": 20}
"""The lease is long: what a dead worker held must not wait for its end."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, and `odd`, which misbehaves; its files are in the folder of the models."""
    folder = Path(tmp_path_factory.mktemp("models"))
    write_model(folder, "tiny", TINY)
    write_model(folder, "odd", factory_card("misbehaving", folder=str(folder)))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="module")
def shared(
    server: EmbeddedServer, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    """One supervisor for the tests after which it still serves."""
    folder = Path(tmp_path_factory.mktemp("workers"))
    with Workers(server.url, models, folder, **LIMITS) as workers:
        yield workers


@pytest.fixture(autouse=True)
def clean(models: Path) -> None:
    for name in ("entered", "go"):
        (models / name).unlink(missing_ok=True)


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as client:
        yield client


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis, queue_options(settings(**LIMITS))) as queue:
        yield queue


async def eventually(look: Callable[[], Any | Awaitable[Any]], limit_s: float = 60) -> Any:
    async with asyncio.timeout(limit_s):
        while True:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


async def ready(redis: Redis, *, but: str = "") -> WorkerStatus:
    """A warm worker, another one than `but`."""
    registry = Registry(redis, queue_options(settings()))

    async def look() -> WorkerStatus | None:
        found = [WorkerStatus.model_validate_json(s) for s in (await registry.workers()).values()]
        live = [w for w in found if w.warm and w.worker != but and psutil.pid_exists(w.pid)]
        return live[0] if live else None

    return await eventually(look)


async def done(queue: JobQueue, job_id: str, limit_s: float = 60) -> JobRecord:
    record = await queue.wait(job_id, limit_s)
    assert record is not None
    assert record.is_terminal, record
    return record


async def succeeded(queue: JobQueue, *ids: str, limit_s: float = 60) -> list[JobRecord]:
    records = [await done(queue, job_id, limit_s) for job_id in ids]
    assert {record.state for record in records} == {State.SUCCEEDED}, records
    for job_id in ids:
        read(await queue.result(job_id))
    return records


async def entered(models: Path) -> None:
    await eventually((models / "entered").exists)


async def test_jobs_are_answered(shared: Workers, redis: Redis, queue: JobQueue) -> None:
    worker = await ready(redis)
    assert (worker.device, worker.host, sorted(worker.resident)) == (
        "cpu", socket.gethostname(), ["odd", "tiny"],
    )  # fmt: skip
    assert [child.pid for child in shared.children()] == [worker.pid]
    ids = [await enqueue(queue, noise(i)) for i in range(5)]
    assert {record.attempts for record in await succeeded(queue, *ids)} == {1}
    assert "worker ready on cpu: odd, tiny" in shared.log
    assert "Traceback" not in shared.log


async def test_a_worker_computes_float32_as_such(shared: Workers, queue: JobQueue) -> None:
    """On a GPU torch else convolves with ten bits of it."""
    await succeeded(queue, await enqueue(queue, noise(0, EXACT), model="odd"))


async def test_the_health_check(shared: Workers, redis: Redis, tmp_path: Path) -> None:
    await ready(redis)
    healthy = await asyncio.to_thread(run_module, "workers.health", shared.environment)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    away = environment(f"unix://{tmp_path}/nobody", tmp_path)
    ill = await asyncio.to_thread(run_module, "workers.health", away)
    assert ill.returncode == 1
    assert ill.stderr == (
        f"no live worker of {socket.gethostname()} has run its warm-up explanation lately\n"
    )


async def test_a_killed_child_loses_no_job_and_does_none_twice(
    shared: Workers, redis: Redis, queue: JobQueue, models: Path
) -> None:
    worker = await ready(redis)
    commits = redis.pubsub()
    await commits.subscribe(keys.DONE)
    assert (await commits.get_message(timeout=5))["type"] == "subscribe"
    slow = await enqueue(queue, noise(0, SLOW), model="odd")
    await entered(models)
    waiting = [await enqueue(queue, noise(i), model="odd") for i in range(1, 4)]
    os.kill(worker.pid, signal.SIGKILL)
    (models / "go").touch()
    first, *others = await succeeded(queue, slow, *waiting)
    assert first.attempts == 2
    assert {record.attempts for record in others} == {1}
    assert first.consumer not in (None, worker.worker)
    closed: list[str] = []

    async def told(timeout_s: float) -> bool:
        message = await commits.get_message(timeout=timeout_s)
        closed.extend([message["data"].decode()] if message else [])
        return len(closed) == 4

    await eventually(lambda: told(1))
    await told(0.1)  # and nothing more
    await commits.aclose()
    assert sorted(closed) == sorted([slow, *waiting])
    assert f"worker {worker.worker} ended (SIGKILL); a new one starts in 0.25 s" in shared.log
    # however long that took: no reaper runs here, which would take it off the list
    patient = Registry(redis, queue_options(settings(worker_stale_s=3600)))
    left = (await patient.workers())[worker.worker]
    dead = WorkerStatus.model_validate_json(left)  # what it served is served again in a moment
    assert (dead.restarting, dead.warm, dead.resident) == (True, False, ())
    assert dead.models == worker.models


async def test_a_poison_job_ends_dead_and_its_batch_mates_succeed(
    shared: Workers, redis: Redis, queue: JobQueue, models: Path
) -> None:
    await ready(redis)
    blocker = await enqueue(queue, noise(0, SLOW), model="odd")
    await entered(models)  # what comes now gathers into one batch
    mates = [await enqueue(queue, noise(1), model="odd")]
    poison = await enqueue(queue, noise(2, DEADLY), model="odd")
    mates += [await enqueue(queue, noise(3), model="odd")]
    (models / "go").touch()
    await succeeded(queue, blocker, *mates)
    record = await done(queue, poison)
    assert (record.state, record.attempts) == (State.DEAD, 2)
    assert failure(record)["code"] == "dead_lettered"
    (letter,) = (await DeadLetters(redis, queue_options(settings())).page(10)).letters
    assert (letter.id, [one.ended_by for one in letter.attempts]) == (poison, ["death"] * 2)
    assert len({one.worker for one in letter.attempts}) == 2


async def test_a_model_that_hangs_is_left_by_its_process(
    shared: Workers, redis: Redis, queue: JobQueue
) -> None:
    worker = await ready(redis)
    hanging = await enqueue(queue, noise(0, HANGING), model="odd")
    await eventually(lambda: f"worker {worker.worker} ended (exit code 70)" in shared.log)
    assert "computing with odd outlasted its time limit" in shared.log
    await queue.cancel(hanging)
    assert (await done(queue, hanging)).state is State.CANCELED
    await ready(redis, but=worker.worker)
    await succeeded(queue, await enqueue(queue, noise(1), model="odd"))


async def test_sigterm_drains(shared: Workers, redis: Redis, queue: JobQueue, models: Path) -> None:
    """The last one that uses the shared workers: what runs is finished, the rest goes back."""
    worker = await ready(redis)
    running = await enqueue(queue, noise(0, SLOW), model="odd")
    await entered(models)
    waiting = await enqueue(queue, noise(1), model="tiny")
    stopped = asyncio.create_task(asyncio.to_thread(shared.stop))
    await eventually(lambda: "worker on cpu is stopping" in shared.log)
    (models / "go").touch()
    assert await stopped == 0
    assert (await succeeded(queue, running))[0].attempts == 1
    record = await queue.get(waiting)
    assert record is not None
    assert (record.state, record.attempts) == (State.QUEUED, 0)
    assert worker.worker not in await Registry(redis, queue_options(settings())).workers()
    assert not psutil.pid_exists(worker.pid)
    await queue.cancel(waiting)


async def test_redis_may_be_late_and_may_restart_and_the_supervisor_may_vanish(
    models: Path, tmp_path: Path
) -> None:
    place = EmbeddedServer(tmp_path / "server")
    place.start()
    url = place.url
    place.stop()
    with Workers(url, models, tmp_path, devices="cpu,cpu", **LIMITS) as workers:
        await eventually(lambda: len(workers.children()) == 2)
        with EmbeddedServer(tmp_path / "server") as server:
            assert server.url == url
            async with connect(url) as redis, JobQueue(redis, queue_options(settings())) as queue:
                await ready(redis)
                await succeeded(queue, await enqueue(queue, noise(0)))
        # away, and then another one in its place
        await eventually(lambda: "Redis is away" in workers.log)
        with EmbeddedServer(tmp_path / "server") as server:
            assert server.url == url
            async with connect(url) as redis, JobQueue(redis, queue_options(settings())) as queue:
                await succeeded(queue, await enqueue(queue, noise(1)))
                children = workers.children()
                assert len(children) == 2
                assert workers.process is not None
                workers.process.kill()
                await asyncio.to_thread(psutil.wait_procs, children, 60)
                assert not any(child.is_running() for child in children)
                assert await Registry(redis, queue_options(settings())).workers() == {}
        assert "Traceback" not in workers.log


async def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.modules['torch'] = None; "
    code += "runpy.run_module('workers', run_name='__main__')"
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment("redis://127.0.0.1:1", tmp_path),
        capture_output=True,
        text=True,
        timeout=60,  # it must not try on
        check=False,
    )
    assert ended.returncode == 2
    assert "workers need torch: pip install 'camserve[worker]'" in ended.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "CAMSERVE_REDIS_URL is not set: name a Redis or Valkey server, or start everything"),
        ({"redis_url": "http://x"}, "CAMSERVE_REDIS_URL: not a Redis URL: 'http://x'"),
        ({"max_bach": 3}, "unknown setting CAMSERVE_MAX_BACH"),
    ],
)
async def test_a_wrong_setting_is_said_in_a_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    variables = environment(changes.pop("redis_url", None), tmp_path, **changes)
    ended = await asyncio.to_thread(run_module, "workers", variables)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
