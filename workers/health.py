"""`python -m workers.health`: a container's health check: can a worker of this host explain?"""

from __future__ import annotations

import asyncio
import socket
import sys

from camserve.broker import Registry, connect
from camserve.errors import QueueUnavailable
from camserve.live_workers import live_workers
from camserve.queueing import queue_options
from camserve.settings import Settings


async def is_healthy(settings: Settings, redis_url: str) -> bool:
    """Whether a live worker of this host has run its warm-up explanation lately."""
    redis = connect(redis_url)
    try:
        workers = await live_workers(Registry(redis, queue_options(settings)))
    except QueueUnavailable:
        return False
    finally:
        await redis.aclose()
    here = socket.gethostname()
    return any(one.host == here and one.is_proven(settings.proof_lasts_s) for one in workers)


def main() -> str | None:
    """What is wrong, in a sentence; None if nothing is."""
    settings = Settings.from_environment()
    if settings.redis_url is None:
        return "CAMSERVE_REDIS_URL is not set"
    if asyncio.run(is_healthy(settings, settings.redis_url)):
        return None
    return f"no live worker of {socket.gethostname()} has run its warm-up explanation lately"


if __name__ == "__main__":
    sys.exit(main())
