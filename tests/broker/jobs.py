"""Short ways to say what the tests do all the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from camserve.broker import (
    Begun,
    Claim,
    JobQueue,
    Priority,
    QueueOptions,
    WorkerQueue,
    keys,
    model_of,
    new_job_id,
)

MODEL = "resnet"


async def submit(queue: JobQueue, job_id: str | None = None, **changes: Any) -> str:
    job = {
        "job_id": job_id or new_job_id(changes.pop("model", MODEL)),
        "priority": Priority.INTERACTIVE,
        "time_to_deadline_ms": 10_000,
        "payload": b"payload",
        "document": b"{}",
    } | changes
    return (await queue.enqueue(**job)).job_id


async def claim_one(worker: WorkerQueue, model: str = MODEL) -> Claim:
    (claim,) = await worker.claim([model], 1, 2.0)
    return claim


async def begin_one(worker: WorkerQueue, model: str = MODEL) -> Begun:
    begun = await worker.begin(await claim_one(worker, model))
    assert begun is not None
    return begun


async def eventually(look: Callable[[], Awaitable[Any]], limit_s: float = 60.0) -> Any:
    """For what only time brings about, such as a lease running out."""
    end_s = time.monotonic() + limit_s
    while not (found := await look()):
        assert time.monotonic() < end_s, "it never came about"
        await asyncio.sleep(0.005)
    return found


async def submit_later(queue: JobQueue, redis: Redis, **changes: Any) -> str:
    """A job that came at least a millisecond after all others: they have an order by time."""
    await time_passes(redis)
    return await submit(queue, **changes)


async def time_passes(redis: Redis) -> None:
    """A millisecond of the server's."""
    start_ms = await now_ms(redis)

    async def has_passed() -> bool:
        return await now_ms(redis) > start_ms

    await eventually(has_passed)


async def now_ms(redis: Redis) -> int:
    """The server's clock."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def kill(
    queue: JobQueue, redis: Redis, options: QueueOptions, job_id: str | None = None, **changes: Any
) -> str:
    """A job (a new one, unless it is given) whose worker died in each of its attempts."""
    job_id = job_id or await submit(queue, **changes)
    model = model_of(job_id)
    for attempt in range(options.max_attempts):
        worker = WorkerQueue(redis, options, f"dead{attempt}")
        assert (await begin_one(worker, model)).job_id == job_id
        await WorkerQueue.release_consumer(redis, options, f"dead{attempt}", [model])
    last = WorkerQueue(redis, options, "last")
    assert await last.begin(await claim_one(last, model)) is None
    return job_id


async def age(redis: Redis, claim: Claim, consumer: str, seconds: float) -> None:
    """As if so much more time had passed since its lease was begun or extended."""
    stream = keys.stream(claim.model, claim.lane)
    (pending,) = await redis.xpending_range(stream, keys.GROUP, claim.entry, claim.entry, 1)
    idle_ms = pending["time_since_delivered"] + round(seconds * 1000)
    await redis.xclaim(stream, keys.GROUP, consumer, 0, [claim.entry], idle=idle_ms, justid=True)


async def due_ago(redis: Redis, job_id: str, seconds: float) -> None:
    """As if its deadline had passed so long ago."""
    deadline_ms = await now_ms(redis) - round(seconds * 1000)
    assert await redis.hset(keys.job(MODEL, job_id), "deadline_ms", deadline_ms) == 0


async def expire(queue: JobQueue, redis: Redis, *job_ids: str) -> None:
    """As if their deadlines and a lease more had passed."""
    for job_id in job_ids:
        assert await redis.hset(keys.job(MODEL, job_id), "deadline_ms", 0) == 0
    assert await queue.reap() == len(job_ids)


async def blocked(redis: Redis, count: int) -> None:
    """Returns when `count` workers wait in a blocking read."""

    async def is_so() -> bool:
        return (await redis.info("clients"))["blocked_clients"] == count

    await eventually(is_so)


async def assert_at_rest(redis: Redis) -> None:
    """Invariant 9: nothing in the streams, nothing pending, and all else passes away."""
    for name in await redis.keys():
        key = name.decode()
        if ":stream:" in key:
            assert await redis.xlen(key) == 0, key
            for group in await redis.xinfo_groups(key):
                assert group["pending"] == 0, key
        if key not in (keys.CARDS, keys.WORKERS, keys.LINKS):
            assert await redis.pttl(key) > 0, key
