"""How many calls a caller has left, counted once for all front ends of a server."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.scripts import call, execute

__all__ = ["Quota", "RateLimiter"]


@dataclass(frozen=True)
class Quota:
    """What a call found. `left` more may be made now, and one beyond these in `wait_s`."""

    granted: bool
    left: int
    wait_s: float


class RateLimiter:
    """A window's worth of calls may come at once; then they come back evenly, one in each
    window/limit. By the server's clock."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, caller: str, limit: int, window_s: float = 60.0) -> Quota:
        """Count a call, unless it is one too many. caller: `""` for all who are nobody.

        A limit that changes applies at once to what was counted before. Raises QueueUnavailable.
        """
        window_us = round(window_s * 1_000_000)
        (reply,) = await execute(self._redis, call("take", [keys.rate(caller)], limit, window_us))
        granted, left, wait_us = map(int, reply)
        return Quota(bool(granted), left, wait_us / 1_000_000)
