"""A real worker process whose memory is bounded, and what it stops computing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis

from camserve.broker import JobQueue, connect
from camserve.broker.embedded import EmbeddedServer
from camserve.contracts.states import State
from camserve.errors import ErrorCode
from camserve.queueing import queue_options
from tests.workers.bench import eventually
from tests.workers.cards import factory_card, settings, write_model
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, failure, noise, read
from tests.workers.processes import Workers
from workers.memory import bound_memory

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked"),
]

BOUND_MB = 1500
EACH_MB = 300
"""For each input: only a few fit beside the worker itself."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("models"))
    write_model(folder, "hungry", factory_card("hungry", megabytes=EACH_MB))
    write_model(folder, "slow", factory_card("misbehaving", folder=str(folder)))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="module")
def workers(
    server: EmbeddedServer, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    folder = Path(tmp_path_factory.mktemp("workers"))
    with Workers(server.url, models, folder, cpu_memory_mb=BOUND_MB) as workers:
        yield workers


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as client:
        yield client


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis, queue_options(settings())) as queue:
        yield queue


async def test_what_does_not_fit_at_once_is_computed_in_parts_and_what_never_fits_is_refused(
    workers: Workers, queue: JobQueue
) -> None:
    many = await enqueue(queue, *(noise(n) for n in range(8)), model="hungry")
    large = await enqueue(queue, torch.zeros(1, 32, 32), model="hungry")
    record = await queue.wait(many, 60)
    assert record is not None
    assert record.state is State.SUCCEEDED, record.failure
    about, maps = read(await queue.result(many))
    assert (len(maps), 1 <= about.batch_size < 8) == (8, True)
    told = failure(await queue.wait(large, 60))
    assert told["code"] == ErrorCode.TOO_LARGE_FOR_DEVICE
    assert told["extensions"]["shape"] == [1, 32, 32]
    again = await enqueue(queue, noise(9), model="hungry")
    record = await queue.wait(again, 60)
    assert record is not None
    assert (record.state, record.attempts) == (State.SUCCEEDED, 1)
    (child,) = workers.children()
    score = Path(f"/proc/{child.pid}/oom_score_adj")
    assert (await asyncio.to_thread(score.read_text)).strip() == "500"


async def test_a_costly_job_is_stopped_when_it_is_canceled(
    workers: Workers, queue: JobQueue, models: Path
) -> None:
    """The worker is in its first pass, and hears of it by itself."""
    job_id = await enqueue(queue, noise(0, SLOW), model="slow", method="scorecam")

    async def entered() -> bool:
        return (models / "entered").exists()

    async def heard() -> bool:
        return "nobody waits for a job any more" in workers.log

    await eventually(entered)
    await queue.cancel(job_id)
    await eventually(heard)
    (models / "go").touch()
    record = await queue.wait(job_id, 60)
    assert record is not None
    assert record.state is State.CANCELED

    async def told() -> bool:
        return "job stopped" in workers.log

    await eventually(told)


def test_a_bound_that_the_worker_itself_exceeds_is_an_error() -> None:
    """Of this process, which it then does not bind."""
    with pytest.raises(ValueError, match=r"a worker takes \d+ MB before .* and 50 are granted"):
        bound_memory(50)
