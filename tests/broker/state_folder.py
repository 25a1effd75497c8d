"""What the tests of the embedded server look at."""

from __future__ import annotations

from pathlib import Path

import redis


def ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.ping()


def left_in(folder: Path) -> set[str]:
    return (
        {path.name for path in folder.iterdir()}
        - {"appendonlydir", "server.log"}
        - {
            "appendonly.aof"  # Redis 6.2
        }
    )
