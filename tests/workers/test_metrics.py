"""What a worker measures arrives in the totals, once, whatever happens to the connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from camserve import measures
from camserve.broker import Totals, keys
from camserve.errors import QueueUnavailable
from camserve.measures import Counter, Histogram, counts_of, distributions_of
from tests.workers.bench import Start, eventually
from tests.workers.cards import factory_card, write_model
from tests.workers.factories import FAULTY, SLOW
from tests.workers.jobs import enqueue, load_job, noise
from workers.device_memory import device_memory
from workers.metrics import WorkerMetrics

pytestmark = pytest.mark.anyio


async def total(redis: Redis, counter: Counter, model: str | None = None, *of: str) -> float:
    census = await Totals(redis).census()
    fields = census.totals if model is None else census.models[model].totals
    return counts_of(counter, fields).get(of, 0.0)


async def observed(redis: Redis, histogram: Histogram, model: str, *of: str) -> tuple[int, float]:
    """How often, and the sum."""
    fields = (await Totals(redis).census()).models[model].totals
    found = distributions_of(histogram, fields).get(of)
    return (int(found.buckets[-1][1]), found.sum) if found else (0, 0.0)


async def test_batches_loads_and_the_device_are_measured(
    start: Start, redis: Redis, models: Path
) -> None:
    bench = await start(max_batch=4)
    assert await total(redis, measures.DEVICE_BUSY_SECONDS) == 0
    done = await load_job(bench.queue, "tiny")
    await bench.done(done)
    await bench.answer(await enqueue(bench.queue, noise(0), noise(1), noise(2)))
    await bench.answer(await enqueue(bench.queue, noise(3)))
    predicted = await enqueue(bench.queue, noise(4), kind="predict")
    await bench.done(predicted)

    async def is_told() -> bool:
        return (await observed(redis, measures.COMPUTE_SECONDS, "tiny", "predict"))[0] == 1

    await eventually(is_told)
    assert await observed(redis, measures.BATCH_INPUTS, "tiny", "explain") == (2, 4)
    assert await observed(redis, measures.BATCH_INPUTS, "tiny", "predict") == (1, 1)
    count, seconds = await observed(redis, measures.COMPUTE_SECONDS, "tiny", "explain")
    assert count == 2
    assert seconds > 0
    loads, seconds = await observed(redis, measures.LOAD_SECONDS, "tiny")
    assert loads == 1
    assert seconds > 0
    totals = (await Totals(redis).census()).totals
    ((place, busy_s),) = counts_of(measures.DEVICE_BUSY_SECONDS, totals).items()
    assert place[1] == "cpu"
    assert busy_s > 0
    assert await observed(redis, measures.COMPUTE_SECONDS, "slow", "explain") == (0, 0)


async def test_what_goes_wrong_is_counted(start: Start, redis: Redis, models: Path) -> None:
    write_model(models, "bad", factory_card("raising"))
    bench = await start()
    await bench.done(await enqueue(bench.queue, noise(0, FAULTY), model="slow"))
    await bench.done(await enqueue(bench.queue, noise(0), model="bad"))

    async def failed() -> bool:
        return await total(redis, measures.LOADS_FAILED, "bad") == 1

    await eventually(failed)
    assert await total(redis, measures.LOADS_FAILED, "slow") == 0
    # a batch that failed was computed, too
    assert (await observed(redis, measures.COMPUTE_SECONDS, "slow", "explain"))[0] == 1


async def test_evictions_are_counted(start: Start, redis: Redis, models: Path) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    bench.loop._residency.make_room("slow")

    async def is_counted() -> bool:
        return await total(redis, measures.EVICTIONS, "tiny") == 1

    await eventually(is_counted)


async def test_a_result_that_comes_too_late_is_counted(
    start: Start, redis: Redis, models: Path
) -> None:
    bench = await start()
    job_id = await enqueue(bench.queue, noise(0, SLOW), model="slow")

    async def entered() -> bool:
        return (models.parent / "entered").exists()

    await eventually(entered)
    await redis.hset(keys.job("slow", job_id), "owner", "who took it over")
    (models.parent / "go").touch()

    async def is_counted() -> bool:
        return await total(redis, measures.LATE_RESULTS, "slow") == 1

    await eventually(is_counted)


async def test_the_heartbeat_tells_of_the_devices_memory(start: Start) -> None:
    bench = await start()

    async def memory() -> object:
        status = await bench.status()
        return status and status.memory

    found = await eventually(memory)
    assert 0 < found.used <= found.total
    assert found.used == found.reserved
    assert 0 < found.free < found.total
    known = device_memory("cpu")
    assert known is not None
    assert known.total == found.total


class _Faulty(Totals):
    """Adds, and then loses the reply."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.outages = 0

    async def add(self, *arguments: object) -> None:
        await super().add(*arguments)  # type: ignore[arg-type]
        if self.outages:
            self.outages -= 1
            raise QueueUnavailable


async def test_what_was_told_before_an_outage_is_not_told_again(redis: Redis) -> None:
    totals = _Faulty(redis)
    metrics = WorkerMetrics(totals, "cpu")
    totals.outages = 2
    metrics.busy(1.5)
    for _ in range(2):
        with pytest.raises(QueueUnavailable):
            await metrics.tell()
        metrics.busy(1.0)  # meanwhile more comes
    await metrics.tell()
    await metrics.tell()
    await metrics.tell()
    ((_, busy_s),) = counts_of(
        measures.DEVICE_BUSY_SECONDS, (await Totals(redis).census()).totals
    ).items()
    assert busy_s == 3.5


async def test_a_worker_that_measured_nothing_tells_nothing(redis: Redis) -> None:
    await WorkerMetrics(Totals(redis), "cpu").tell()
    assert await redis.keys("*") == []
