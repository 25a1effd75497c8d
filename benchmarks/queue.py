"""What the queue adds to a job, beside a bare PING of the same server.

One round trip is enqueue -> claim -> begin -> finish -> the waiter wakes and has the result's
record, with a payload of 1 KB, or of 150 KB as for a picture. Clients, the worker and the server
are three processes of one machine, as on a laptop.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.options import Options
from benchmarks.timing import quantile
from camserve.broker import JobQueue, Priority, QueueOptions, WorkerQueue, connect, new_job_id
from camserve.broker.embedded import EmbeddedServer

__all__ = ["measure"]

MODEL = "benchmark"
PAYLOADS = {"1 KB": bytes(1_000), "150 KB": bytes(150_000)}
RESULT = bytes(1_000)
QUEUE = QueueOptions(depth_cap=4096)
CLIENTS = 32
BATCH = 8
JOBS = 500


def measure(options: Options) -> Iterator[Figure]:
    jobs = 20 if options.tiny else JOBS // 4 if options.quick else JOBS
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        pings_ms, round_trips_ms = asyncio.run(_round_trips(server.url, jobs))
        jobs_per_s = asyncio.run(_throughput(server.url, jobs * 4))
    ping_ms = quantile(pings_ms, 0.5)
    yield Figure("PING of the server, p50", ping_ms, "ms")
    for name, times_ms in round_trips_ms.items():
        yield Figure(f"job of {name}, p50", quantile(times_ms, 0.5), "ms")
        yield Figure(f"job of {name}, p99", quantile(times_ms, 0.99), "ms")
        yield Figure(f"job of {name} / PING, p50", quantile(times_ms, 0.5) / ping_ms, "x")
    yield Figure(f"jobs of 1 KB, {CLIENTS} clients, batches of {BATCH}", jobs_per_s, "/s")


async def _round_trips(url: str, jobs: int) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of PINGs and of jobs of each size, in turns."""
    pings_ms: list[float] = []
    trips_ms: dict[str, list[float]] = {name: [] for name in PAYLOADS}
    async with connect(url) as redis, JobQueue(redis, QUEUE) as queue, _worker(url, 1):
        for payload in PAYLOADS.values():
            await asyncio.gather(*(_one_job(queue, payload) for _ in range(20)))  # warm up
        for _ in range(jobs):
            start_s = time.perf_counter()
            await redis.ping()
            pings_ms.append((time.perf_counter() - start_s) * 1000)
            for name, payload in PAYLOADS.items():
                trips_ms[name].append(await _one_job(queue, payload))
    return pings_ms, trips_ms


async def _throughput(url: str, jobs: int) -> float:
    """Jobs a second of clients that each wait for their job before the next one."""
    async with connect(url) as redis, JobQueue(redis, QUEUE) as queue, _worker(url, BATCH):
        await _one_job(queue, RESULT)
        left = iter(range(jobs))

        async def client() -> None:
            for _ in left:
                await _one_job(queue, PAYLOADS["1 KB"])

        start_s = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return jobs / (time.perf_counter() - start_s)


async def _one_job(queue: JobQueue, payload: bytes) -> float:
    """One round trip in ms."""
    start_s = time.perf_counter()
    job_id = new_job_id(MODEL)
    await queue.enqueue(
        job_id=job_id,
        priority=Priority.INTERACTIVE,
        time_to_deadline_ms=60_000,
        payload=payload,
        document=b"{}",
    )
    record = await queue.wait(job_id, 60)
    assert record is not None
    assert record.state == "succeeded", record
    return (time.perf_counter() - start_s) * 1000


async def _work(url: str, batch: int) -> None:
    """A worker whose computation takes no time, until it is canceled."""
    async with connect(url) as redis:
        queue = WorkerQueue(redis, QUEUE, f"worker-{time.monotonic_ns()}")
        while True:
            claims = await queue.claim([MODEL], batch, 1.0)
            begun = await queue.begin_batch(claims) if claims else []
            await asyncio.gather(*(queue.finish(one, RESULT) for one in begun))


def _work_apart(url: str, batch: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_work(url, batch))


@contextlib.asynccontextmanager
async def _worker(url: str, batch: int) -> AsyncIterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=_work_apart, args=(url, batch), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()
