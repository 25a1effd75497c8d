"""`python -m workers.health`: a container's health check: has this host a warm, live worker?"""

from __future__ import annotations

import asyncio
import socket
import sys

from pydantic import ValidationError

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
    return any(_is_warm_here(status) for status in statuses)


def _is_warm_here(status: bytes) -> bool:
    try:
        worker = WorkerStatus.model_validate_json(status)
    except ValidationError:  # of another version of camserve, so not of this container
        return False
    return worker.warm and worker.host == socket.gethostname()


def main() -> str | None:
    """What is wrong, in a sentence; None if nothing is."""
    settings = Settings.from_environment()
    if settings.redis_url is None:
        return "CAMSERVE_REDIS_URL is not set"
    if asyncio.run(is_healthy(settings, settings.redis_url)):
        return None
    return f"no warm, live worker of {socket.gethostname()} is registered in Redis"


if __name__ == "__main__":
    sys.exit(main())
