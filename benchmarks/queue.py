"""What the queue adds to a job: `python -m benchmarks.queue [--url unix:///...]`.

One round trip is enqueue -> claim -> begin -> finish -> the waiter wakes and has the result's
record, with a 150 KB payload and a 1 KB result, as for a picture. The same machine's bare PING is
printed beside it, so that numbers of different machines can be compared. Clients, the worker and
the server are three processes of one machine, as on a laptop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from camserve.broker import JobQueue, Priority, QueueOptions, WorkerQueue, connect, new_job_id
from camserve.broker.embedded import EmbeddedServer

MODEL = "benchmark"
PAYLOAD = bytes(150_000)
RESULT = bytes(1_000)
OPTIONS = QueueOptions(depth_cap=4096)


async def work(url: str, batch: int) -> None:
    """A worker whose computation takes no time, until it is canceled."""
    async with connect(url) as redis:
        queue = WorkerQueue(redis, OPTIONS, f"worker-{time.monotonic_ns()}")
        while True:
            claims = await queue.claim([MODEL], batch, 1.0)
            begun = await queue.begin_batch(claims) if claims else []
            await asyncio.gather(*(queue.finish(one, RESULT) for one in begun))


def work_apart(url: str, batch: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(url, batch))


async def one_job(queue: JobQueue, payload: bytes) -> float:
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


async def pings_ms(url: str, count: int) -> list[float]:
    times = []
    async with connect(url) as redis:
        for _ in range(count):
            start_s = time.perf_counter()
            await redis.ping()
            times.append((time.perf_counter() - start_s) * 1000)
    return times[count // 10 :]


@contextlib.asynccontextmanager
async def a_worker(url: str, batch: int, *, apart: bool) -> AsyncIterator[None]:
    if apart:
        process = multiprocessing.get_context("spawn").Process(
            target=work_apart, args=(url, batch), daemon=True
        )
        process.start()
        try:
            yield
        finally:
            process.terminate()
            process.join()
    else:
        task = asyncio.create_task(work(url, batch))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def measure(url: str, jobs: int, clients: int, *, apart: bool) -> dict[str, float]:
    report = {f"ping {key}": value for key, value in quantiles(await pings_ms(url, jobs)).items()}
    async with connect(url) as redis, JobQueue(redis, OPTIONS) as queue:
        async with a_worker(url, 1, apart=apart):
            for name, payload in (("1 KB", RESULT), ("150 KB", PAYLOAD)):
                await asyncio.gather(*(one_job(queue, payload) for _ in range(20)))  # warm up
                times = [await one_job(queue, payload) for _ in range(jobs)]
                report |= {f"job of {name} {key}": ms for key, ms in quantiles(times).items()}
        report["ratio p50 (job of 1 KB / ping)"] = (
            report["job of 1 KB p50_ms"] / report["ping p50_ms"]
        )
        async with a_worker(url, 8, apart=apart):
            await one_job(queue, RESULT)
            left = iter(range(jobs * 2))

            async def client() -> None:
                for _ in left:
                    await one_job(queue, RESULT)

            start_s = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(clients)))
            rate = jobs * 2 / (time.perf_counter() - start_s)
            report[f"jobs_per_s, {clients} clients, batches of 8"] = rate
    return report


def quantiles(times_ms: list[float]) -> dict[str, float]:
    return {
        "p50_ms": statistics.median(times_ms),
        "p99_ms": statistics.quantiles(times_ms, n=100)[98],
    }


@contextlib.contextmanager
def a_server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "redis") as server:
        yield server.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a server to use; by default a private one")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--one-process", action="store_true", help="clients and worker share one")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with a_server(asked.url) as url:
        report = asyncio.run(measure(url, asked.jobs, asked.clients, apart=not asked.one_process))
    if asked.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:45} {value:10.3f}")


if __name__ == "__main__":
    main()
