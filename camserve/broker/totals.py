"""What the service counts, and how its queues are: for metrics, without a look at single jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.scripts import call, execute

__all__ = ["Census", "ModelCensus", "RankCensus", "Totals"]


@dataclass(frozen=True)
class RankCensus:
    """The jobs of one rank of a model's queue, whatever their device."""

    open: int
    """Those that wait, and those that a worker has."""
    waiting: int
    oldest_s: float
    """How long ago the first that waits was accepted; 0 if none does."""


@dataclass(frozen=True)
class ModelCensus:
    """The queue of one model."""

    ranks: Mapping[str, RankCensus]
    dead_letters: int
    cached_results: int
    """How many there are that may answer other jobs."""
    cached_bytes: int
    totals: Mapping[str, float]


@dataclass(frozen=True)
class Census:
    """All queues. totals: what is counted of no model."""

    models: Mapping[str, ModelCensus]
    totals: Mapping[str, float]


class Totals:
    """Numbers that only grow, kept on the server for all processes to add to.

    All methods raise QueueUnavailable when the server is away.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, fields: Mapping[str | None, Mapping[str, float]], nonce: str) -> None:
        """By model, or None for what is of none: how much each field grows. Within a minute, a call
        of the same nonce adds nothing more: its reply was lost."""
        calls = [
            call(
                "add_up",
                [keys.prefix(model) if model else keys.NO_MODEL],
                nonce,
                *(part for pair in of_model.items() for part in pair),
            )
            for model, of_model in fields.items()
            if of_model
        ]
        if calls:
            await execute(self._redis, *calls)

    async def census(self) -> Census:
        """Of all models that have a card, or had a job of late: two round trips."""
        queues, cards, totals = await execute(
            self._redis,
            ("SMEMBERS", keys.QUEUES),
            ("HKEYS", keys.CARDS),
            ("HGETALL", keys.totals(None)),
        )
        models = sorted({name.decode() for name in (*queues, *cards)})
        found = (
            await execute(self._redis, *(call("census", [keys.prefix(model)]) for model in models))
            if models
            else []
        )
        return Census(
            {model: _of_model(reply) for model, reply in zip(models, found, strict=True)},
            {name.decode(): float(value) for name, value in totals.items()},
        )


def _of_model(reply: Any) -> ModelCensus:
    ranks, dead_letters, totals, cached_results, cached_bytes = reply
    return ModelCensus(
        {
            rank.decode(): RankCensus(int(all_open), int(waiting), int(oldest_ms) / 1000)
            for rank, all_open, waiting, oldest_ms in ranks
        },
        int(dead_letters),
        int(cached_results),
        int(cached_bytes),
        {
            name.decode(): float(value)
            for name, value in zip(totals[::2], totals[1::2], strict=True)
        },
    )
