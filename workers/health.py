"""`python -m workers.health`: a container's health check: has this host a warm, live worker?"""

from __future__ import annotations

import asyncio
import socket
import sys

from camserve.broker import Registry, connect
from camserve.contracts.cards import WorkerStatus
from camserve.errors import QueueUnavailable
from camserve.queueing import queue_options
from camserve.settings import Settings


async def is_healthy(settings: Settings, redis_url: str) -> bool:
    """Whether a worker of this host has a fresh heartbeat and has run its warm-up explanation."""
    redis = connect(redis_url)
    try:
        statuses = (await Registry(redis, queue_options(settings)).workers()).values()
    except QueueUnavailable:
        return False
    finally:
        await redis.aclose()
    workers = [WorkerStatus.model_validate_json(status) for status in statuses]
    return any(worker.warm and worker.host == socket.gethostname() for worker in workers)


def main() -> int:
    settings = Settings.from_environment()
    if settings.redis_url is None:
        return 1
    return 0 if asyncio.run(is_healthy(settings, settings.redis_url)) else 1


if __name__ == "__main__":
    sys.exit(main())
