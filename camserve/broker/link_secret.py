"""The secret that signs links, one for all front ends of a server."""

from __future__ import annotations

import secrets
from typing import Final

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.scripts import execute

__all__ = ["LinkSecret"]

_BYTES: Final = 32


class LinkSecret:
    """Made by whoever asks first, and asked for each time: so that all front ends have the same one
    also after the server lost it, together with all that the links lead to."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def get(self) -> bytes:
        """32 random bytes. Raises QueueUnavailable."""
        (secret,) = await execute(self._redis, ("GET", keys.LINKS))
        if secret is None:
            fresh = secrets.token_bytes(_BYTES)
            _, secret = await execute(
                self._redis,
                ("SET", keys.LINKS, fresh, "NX"),
                ("GET", keys.LINKS),
            )
        return bytes(secret)
