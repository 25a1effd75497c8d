"""Who is there: the cards of the models that workers serve, and the live workers."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.options import QueueOptions
from camserve.broker.scripts import call, execute

__all__ = ["Registry", "WorkerRecord"]


@dataclass(frozen=True)
class WorkerRecord:
    """A worker as of its latest heartbeat."""

    status: bytes
    """What the worker tells about itself, opaque here."""
    at_ms: int
    """When the heartbeat arrived, by the server's clock."""
    silent_s: float
    """How long ago that is, by the same clock."""


class Registry:
    """Model cards and workers, kept on the server for all processes to see.

    All methods raise QueueUnavailable when the server is away.
    """

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options

    async def publish_card(self, model: str, card: bytes) -> None:
        keys.prefix(model)  # a name that cannot have a queue must not become known
        await execute(self._redis, ("HSET", keys.CARDS, model, card))

    async def remove_card(self, model: str) -> None:
        await execute(self._redis, ("HDEL", keys.CARDS, model))

    async def cards(self) -> dict[str, bytes]:
        """All cards by model name, sorted."""
        (cards,) = await execute(self._redis, ("HGETALL", keys.CARDS))
        return {name.decode(): card for name, card in sorted(cards.items())}

    async def card(self, model: str) -> bytes | None:
        (card,) = await execute(self._redis, ("HGET", keys.CARDS, model))
        return card if isinstance(card, bytes) else None

    async def heartbeat(self, worker_id: str, status: bytes) -> bool:
        """Says that a worker lives; the server stamps it with its own clock.

        Returns False when the server did not know the worker: at its first heartbeat, and after
        the server lost its data, when the cards must be published again.
        """
        (known,) = await execute(self._redis, call("heartbeat", [keys.WORKERS], worker_id, status))
        return bool(known)

    async def remove_worker(self, worker_id: str) -> None:
        await execute(self._redis, ("HDEL", keys.WORKERS, worker_id))

    async def workers(self) -> dict[str, bytes]:
        """The status of each live worker by its id, sorted."""
        records = await self.worker_records()
        return {worker_id: record.status for worker_id, record in records.items()}

    async def worker_records(self) -> dict[str, WorkerRecord]:
        """Each live worker by its id, sorted; the stale ones are left out."""
        time, records = await execute(self._redis, ("TIME",), ("HGETALL", keys.WORKERS))
        now_ms = _ms(time)
        return {
            worker_id.decode(): record
            for worker_id, value in sorted(records.items())
            if (record := _parse(value, now_ms)).silent_s <= self._options.worker_stale_s
        }


def _parse(value: bytes, now_ms: int) -> WorkerRecord:
    stamp, status = value.split(b"\n", 1)
    at_ms = int(stamp)
    silent_s = max(now_ms - at_ms, 0) / 1000  # a failover may set the clock back
    return WorkerRecord(status=status, at_ms=at_ms, silent_s=silent_s)


def _ms(time: tuple[int, int]) -> int:
    seconds, microseconds = time
    return seconds * 1000 + microseconds // 1000
