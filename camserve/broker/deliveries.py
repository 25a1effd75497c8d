"""News of closed jobs that somebody is to be told: claimed under a lease, tried, settled."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.job_ids import model_of
from camserve.broker.options import QueueOptions
from camserve.broker.scripts import Command, call, execute

__all__ = ["Deliveries", "Delivery"]


@dataclass(frozen=True)
class Delivery:
    """A delivery that is leased to this front end. Whoever claims it later makes `token` stale."""

    job_id: str
    token: str


class Deliveries:
    """What front ends deliver: each once while nobody dies, at least once in all.

    All methods raise QueueUnavailable when the server is away.
    """

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options

    async def claim(self, most: int, lease_s: float) -> list[Delivery]:
        """Up to `most` deliveries that are due, those of the model first that waits longest."""
        found: list[Delivery] = []
        for model in await self._models_with_due_ones():
            if len(found) >= most:
                break
            token = secrets.token_hex(8)
            lease_ms, left = round(lease_s * 1000), most - len(found)
            (ids,) = await execute(
                self._redis, call("claim_deliveries", [keys.prefix(model)], token, lease_ms, left)
            )
            found += [Delivery(job_id.decode(), token) for job_id in ids]
        return found

    async def _models_with_due_ones(self) -> list[str]:
        (seconds, micros), names = await execute(self._redis, ("TIME",), ("SMEMBERS", keys.QUEUES))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        models = [name.decode() for name in names]
        if not models:
            return []
        heads = await execute(
            self._redis, *(("ZRANGE", keys.deliveries(one), 0, 0, "WITHSCORES") for one in models)
        )
        first_ms = {model: int(head[1]) for model, head in zip(models, heads, strict=True) if head}
        due = [model for model, due_ms in first_ms.items() if due_ms <= now_ms]
        return sorted(due, key=first_ms.__getitem__)

    async def settle(
        self, delivery: Delivery, state: Literal["delivered", "failed"], outcome: bytes
    ) -> bool:
        """Ends it. outcome: kept with the job. False if the lease was lost."""
        return await self._settle(delivery, state, 0, outcome)

    async def retry(self, delivery: Delivery, delay_s: float, outcome: bytes) -> bool:
        """Has it tried again after `delay_s`. False if the lease was lost."""
        return await self._settle(delivery, "pending", round(delay_s * 1000), outcome)

    async def release(self, delivery: Delivery, delay_s: float = 0.0) -> None:
        """Hands it back untried, for another front end, or for later."""
        model, delay_ms = model_of(delivery.job_id), round(delay_s * 1000)
        arguments = (delivery.job_id, delivery.token, delay_ms, self._options.job_ttl_ms)
        await execute(
            self._redis,
            self._noted(model, delay_ms),
            call("release_delivery", [keys.prefix(model)], *arguments),
        )

    async def _settle(self, delivery: Delivery, state: str, delay_ms: int, outcome: bytes) -> bool:
        model = model_of(delivery.job_id)
        _, settled = await execute(
            self._redis,
            self._noted(model, delay_ms),
            call(
                "settle_delivery",
                [keys.prefix(model)],
                *(delivery.job_id, delivery.token, state, delay_ms, outcome),
                self._options.job_ttl_ms,
            ),
        )
        return bool(settled)

    def _noted(self, model: str, delay_ms: int) -> Command:
        """That the model is looked at for as long as what is due later is kept."""
        return call("note", [keys.QUEUES], model, delay_ms + self._options.job_ttl_ms)
