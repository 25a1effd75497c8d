"""What the cache of results costs who misses it, and what a hit takes: `python -m
benchmarks.result_cache`.

One job after the other through an idle queue, taking turns: without the cache; with it, for what it
does not know; for what it knows. Payloads are of a picture of 224 pixels (602 KB), with a display
copy of 60 KB; results of one map (1 KB). Clients, the worker and the server are three processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from camserve.broker import (
    JobQueue,
    Priority,
    QueueOptions,
    ResultCache,
    WorkerQueue,
    connect,
    new_job_id,
)
from camserve.broker.embedded import EmbeddedServer

MODEL = "benchmark"
PAYLOAD = bytes(4 * 3 * 224 * 224)
PICTURE = bytes(60_000)
RESULT = bytes(1_000)
OPTIONS = QueueOptions(result_cache_bytes=32_000_000)


async def work(url: str) -> None:
    """A worker whose computation takes no time. The document of a job is its digest."""
    async with connect(url) as redis:
        queue = WorkerQueue(redis, OPTIONS, "worker")
        while True:
            claims = await queue.claim([MODEL], 8, 1.0)
            begun = await queue.begin_batch(claims) if claims else []
            await asyncio.gather(
                *(queue.finish(one, RESULT, one.document.decode()) for one in begun)
            )


def work_apart(url: str) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(url))


@contextlib.asynccontextmanager
async def a_worker(url: str) -> AsyncIterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=work_apart, args=(url,), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


async def one_job(queue: JobQueue, cache: ResultCache | None, digest: str | None) -> float:
    """From the question to the result, in ms."""
    start_s = time.perf_counter()
    job_id = new_job_id(MODEL)
    document = (digest or "").encode()
    recalled = None
    if cache is not None and digest is not None:
        recalled = await cache.recall(
            job_id=job_id,
            digest=digest,
            priority=Priority.INTERACTIVE,
            time_to_deadline_ms=60_000,
            document=document,
            attachments={"picture.0": PICTURE},
            listed=True,
        )
    if recalled is None:
        await queue.enqueue(
            job_id=job_id,
            priority=Priority.INTERACTIVE,
            time_to_deadline_ms=60_000,
            payload=PAYLOAD,
            document=document,
            attachments={"picture.0": PICTURE},
            listed=True,
            digest=digest,
            lookup="miss" if digest else None,
        )
    record = await queue.wait(job_id, 60)
    assert record is not None
    assert record.state == "succeeded", record
    assert await queue.result(job_id) == RESULT
    took_ms = (time.perf_counter() - start_s) * 1000
    await queue.discard(job_id)  # what is kept would fill the server
    return took_ms


async def measure(url: str, jobs: int) -> dict[str, float]:
    took_ms: dict[str, list[float]] = {"without": [], "miss": [], "hit": []}
    async with connect(url) as redis, JobQueue(redis, OPTIONS) as queue, a_worker(url):
        cache = ResultCache(redis, OPTIONS)
        known = secrets.token_hex(32)
        await one_job(queue, None, known)
        for number in range(jobs + jobs // 10):
            turn = {
                "without": await one_job(queue, None, None),
                "miss": await one_job(queue, cache, secrets.token_hex(32)),
                "hit": await one_job(queue, cache, known),
            }
            if number >= jobs // 10:
                for name, ms in turn.items():
                    took_ms[name].append(ms)
    report = {f"{name} p50_ms": statistics.median(times) for name, times in took_ms.items()}
    report |= {
        f"{name} p95_ms": statistics.quantiles(times, n=20)[-1] for name, times in took_ms.items()
    }
    for name in ("miss", "hit"):
        pairs = zip(took_ms[name], took_ms["without"], strict=True)
        report[f"ratio {name} / without, median of pairs"] = statistics.median(
            ms / without for ms, without in pairs
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "redis") as server:
        report = asyncio.run(measure(server.url, asked.jobs))
    if asked.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:45} {value:10.3f}")


if __name__ == "__main__":
    main()
