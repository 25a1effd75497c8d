"""Ids of jobs in sorted sets of equal scores, one a model: newest last, since ids sort by time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.scripts import Command, execute

__all__ = ["each", "known_models", "newest_before"]


async def newest_before(
    redis: Redis, lists: Sequence[str], cursor: str | None, most: int
) -> list[str]:
    """The newest ids of all lists that came before `cursor`, at most so many."""
    start = f"({cursor}" if cursor else "+"
    replies = await each(
        redis, (("ZREVRANGEBYLEX", name, start, "-", "LIMIT", 0, most) for name in lists)
    )
    ids = (member.decode() for reply in replies for member in reply)
    return sorted(ids, reverse=True)[:most]


async def known_models(redis: Redis) -> list[str]:
    """The models that had a job of late."""
    (models,) = await execute(redis, ("SMEMBERS", keys.QUEUES))
    return [model.decode() for model in models]


async def each(redis: Redis, commands: Iterable[Command]) -> list[Any]:
    """The replies to any number of commands, also to none."""
    listed = list(commands)
    return await execute(redis, *listed) if listed else []
