"""Workers prove again and again that their device can explain, and leave when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, Registry, connect
from camserve.broker.embedded import EmbeddedServer
from camserve.contracts.cards import WorkerStatus
from camserve.contracts.states import State
from camserve.live_workers import live_workers
from camserve.queueing import queue_options
from tests.workers import jobs
from tests.workers.bench import Start, eventually
from tests.workers.cards import TINY, factory_card, settings, write_model
from tests.workers.factories import BREAKING, DRIFTING, FAULTY
from tests.workers.jobs import enqueue, noise
from tests.workers.processes import Workers
from workers import proof as proof_module
from workers.proof import UNFIT_EXIT_CODE

pytestmark = pytest.mark.anyio

LIMITS = {"max_attempts": 2, "lease_s": 20, "warm_up_every_s": 0.5}
UNFIT = f"exit code {UNFIT_EXIT_CODE}"


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that were proven, each time."""
    given: list[str] = []
    warm_up = proof_module.warm_up

    def counted(device: str) -> None:
        warm_up(device)
        given.append(device)

    monkeypatch.setattr(proof_module, "warm_up", counted)
    return given


async def test_an_idle_worker_proves_itself_again(start: Start, proofs: list[str]) -> None:
    bench = await start(warm_up_every_s=0.02)

    async def has_proven() -> bool:
        return len(proofs) > 3

    await eventually(has_proven)
    assert set(proofs) == {"cpu"}
    status = await bench.status()
    assert status is not None
    assert status.proof_age_s is not None


async def test_a_busy_worker_does_so_between_batches(start: Start, proofs: list[str]) -> None:
    bench = await start(warm_up_every_s=0.02, max_batch=1)
    before, work = len(proofs), 0
    async with asyncio.timeout(30):
        while len(proofs) < before + 3:  # the queue is never empty meanwhile
            ids = [await enqueue(bench.queue, noise(work + i)) for i in range(8)]
            work += len(ids)
            await bench.answer(ids[0])
    for job_id in ids:
        await bench.answer(job_id)


async def test_a_job_that_fails_unforeseen_is_not_blamed_before_the_device_is_proven(
    start: Start, proofs: list[str]
) -> None:
    bench = await start(warm_up_every_s=1000)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    before = len(proofs)
    record = await bench.done(await enqueue(bench.queue, noise(0, FAULTY), model="slow"))
    assert jobs.failure(record)["code"] == "internal"
    assert len(proofs) == before + 1
    # what fails for a reason of its own says nothing of the device
    lacking = await enqueue(bench.queue, noise(0), feature_layers=("nothing",))
    assert jobs.failure(await bench.done(lacking))["code"] == "layer_not_found"
    assert len(proofs) == before + 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="module")
def workers(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A real supervisor with a real child, whose models can break the device for good."""
    folder = Path(tmp_path_factory.mktemp("workers"))
    write_model(folder / "models", "tiny", TINY)
    write_model(folder / "models", "odd", factory_card("misbehaving", folder=str(folder)))
    with Workers(server.url, folder / "models", folder, **LIMITS) as workers:
        yield workers


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as client:
        yield client


async def proven(redis: Redis, but: str = "") -> WorkerStatus:
    registry = Registry(redis, queue_options(settings()))

    async def look() -> WorkerStatus | None:
        found = [one for one in await live_workers(registry) if one.is_proven(60)]
        return next((one for one in found if one.worker != but), None)

    async with asyncio.timeout(60):
        while not (status := await look()):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.02)
    return status


async def test_a_device_that_breaks_costs_nobody_but_who_breaks_it(
    workers: Workers, server: EmbeddedServer
) -> None:
    """As an assertion in a CUDA kernel does, which fails all that comes after it."""
    async with connect(server.url) as redis, JobQueue(redis, queue_options(settings())) as queue:
        first = await proven(redis)
        breaking = await enqueue(queue, noise(0, BREAKING), model="odd")
        mates = [await enqueue(queue, noise(i), model=m) for i in range(4) for m in ("odd", "tiny")]
        async with asyncio.timeout(60):
            while UNFIT not in workers.log:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
        await queue.cancel(breaking)  # else the next worker would get it first, and break as well
        records = [await queue.wait(job_id, 60) for job_id in mates]
        assert {record.state for record in records if record} == {State.SUCCEEDED}
        record = await queue.wait(breaking, 60)
        assert record is not None  # whose worker did not live to blame it, nor anybody else
        assert record.state in (State.CANCELED, State.DEAD)
        await proven(redis, but=first.worker)
    assert f"worker {first.worker} ended ({UNFIT})" in workers.log
    assert "cpu explains no more what it explained before (RuntimeError: device-side" in workers.log


async def test_a_device_whose_maps_become_wrong_is_found_out(
    workers: Workers, server: EmbeddedServer
) -> None:
    """Nothing raises: only the known explanation tells."""
    async with connect(server.url) as redis, JobQueue(redis, queue_options(settings())) as queue:
        first = await proven(redis)
        record = await queue.wait(await enqueue(queue, noise(0, DRIFTING), model="odd"), 60)
        assert record is not None
        assert record.state is State.SUCCEEDED
        second = await proven(redis, but=first.worker)
        assert second.pid != first.pid
        assert f"worker {first.worker} ended ({UNFIT})" in workers.log
        assert "computes wrong maps in the warm-up explanation" in workers.log
        record = await queue.wait(await enqueue(queue, noise(0)), 60)
        assert record is not None
        assert record.state is State.SUCCEEDED
