"""Where a worker's claims come from: the lanes of its models, without waiting or with."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from camserve.broker import keys
from camserve.broker.connection import LONGEST_BLOCK_S
from camserve.broker.devices import executions_of
from camserve.broker.options import QueueOptions
from camserve.broker.records import Claim
from camserve.broker.scripts import call, execute

__all__ = ["ClaimSource"]

_STREAM_GONE = ("NOGROUP", "UNBLOCKED")


class ClaimSource:
    """Takes entries for one consumer. `WorkerQueue.claim` says what comes in which order."""

    def __init__(self, redis: Redis, options: QueueOptions, consumer: str, device: str) -> None:
        self._redis = redis
        self._options = options
        self._consumer = consumer
        executions = executions_of(device)
        lanes = [keys.lane(rank, execution) for rank in keys.RANKS for execution in executions]
        self._width = len(executions)
        self._lanes = lanes
        self._redelivered, self._fresh = lanes[: self._width], lanes[self._width :]
        self._made_until_s: dict[str, float] = {}
        self._reserve: list[Claim] = []
        self._last_served: str | None = None

    @property
    def reserve(self) -> Sequence[Claim]:
        """What came along with another claim and waits for its turn; leased like any other."""
        return tuple(self._reserve)

    def empty_reserve(self) -> list[Claim]:
        reserve, self._reserve = self._reserve, []
        return reserve

    async def claim(
        self, models: Sequence[str], limit: int, block_s: float, *, redelivered: bool
    ) -> list[Claim]:
        if not models:
            return []
        lanes = self._lanes if redelivered else self._fresh
        claims = await self._take(self._by_turns(models), self._before_reserve(lanes), limit)
        if not claims:
            first = await self._first(models, lanes, block_s)
            claims = [first] if first else []
            if first and limit > first.weight and not first.redelivered:
                claims += await self._take([first.model], self._fresh, limit, first.weight)
        if claims:
            self._last_served = claims[0].model
        return claims

    async def redelivered(self, models: Sequence[str], limit: int) -> list[Claim]:
        """Up to `limit` redelivered claims, each to run alone."""
        claims: list[Claim] = []
        while len(claims) < limit:
            more = await self._take(models, self._redelivered, 1)
            if not more:
                break
            claims += more
        return claims

    async def redelivered_waits(self, models: Sequence[str]) -> bool:
        lanes = self._redelivered
        looks = (call("waiting", [keys.prefix(model)], *lanes) for model in models)
        return any(await execute(self._redis, *looks))

    def _before_reserve(self, lanes: Sequence[str]) -> Sequence[str]:
        """The lanes that go before what waits in the reserve: those of a higher rank."""
        if not self._reserve:
            return lanes
        first = keys.RANKS.index(keys.rank(self._reserve[0].lane))
        return [lane for lane in lanes if keys.RANKS.index(keys.rank(lane)) < first]

    def _by_turns(self, models: Sequence[str]) -> list[str]:
        """The model after the last served one first, lest a busy model starves the others."""
        if self._last_served is None or self._last_served not in models:
            return list(models)
        after = list(models).index(self._last_served) + 1
        return [*models[after:], *models[:after]]

    async def _first(
        self, models: Sequence[str], lanes: Sequence[str], block_s: float
    ) -> Claim | None:
        if self._reserve:
            return self._reserve.pop(0)
        if block_s <= 0:
            return None
        return await self._block(models, lanes, min(block_s, LONGEST_BLOCK_S))

    async def _take(
        self, models: Sequence[str], lanes: Sequence[str], limit: int, held: int = 0
    ) -> list[Claim]:
        """held: weight of a claim that these go with."""
        if not lanes:
            return []
        (found,) = await execute(
            self._redis,
            call(
                "claim",
                [keys.prefix(model) for model in models],
                self._consumer,
                limit,
                held,
                self._options.job_ttl_ms,
                self._width,
                *lanes,
            ),
        )
        return [
            Claim(job_id.decode(), models[index - 1], lane.decode(), entry.decode(), weight)
            for index, lane, entry, job_id, weight in found
        ]

    async def _block(
        self, models: Sequence[str], lanes: Sequence[str], block_s: float
    ) -> Claim | None:
        """Waits for one entry. Several streams may yield one each: the rest is kept in reserve.

        They come in the order of the lanes: what must run alone leaves the reserve first.
        """
        streams = {keys.stream(model, lane): (model, lane) for lane in lanes for model in models}
        claims = [
            Claim(
                fields[b"id"].decode(),
                *streams[name.decode()],
                entry.decode(),
                int(fields.get(b"weight", 1)),
            )
            for name, entries in await self._read(models, list(streams), block_s)
            for entry, fields in entries
        ]
        if not claims:
            return None
        self._reserve += claims[1:]
        return claims[0]

    async def _read(self, models: Sequence[str], streams: Sequence[str], block_s: float) -> Any:
        ask = ("XREADGROUP", "GROUP", keys.GROUP, self._consumer, "COUNT", 1, "BLOCK")
        end_s = time.monotonic() + block_s
        while True:
            fresh = await self._make_lanes(models)
            wait_ms = max(round((end_s - time.monotonic()) * 1000), 1)  # 0 would be for ever
            try:
                (found,) = await execute(
                    self._redis, (*ask, wait_ms, "STREAMS", *streams, *(">" for _ in streams))
                )
            except ResponseError as error:
                if not any(code in str(error) for code in _STREAM_GONE):
                    raise
                self._made_until_s.clear()  # the server lost its data: make all anew
                if fresh:
                    return ()
            else:
                return found or ()

    async def _make_lanes(self, models: Sequence[str]) -> bool:
        """Makes the streams that a blocking read asks for, and again long before they expire."""
        now_s = time.monotonic()
        due = [model for model in models if now_s >= self._made_until_s.get(model, -math.inf)]
        if due:
            ttl_ms = self._options.job_ttl_ms
            await execute(
                self._redis,
                *(call("make_lanes", [keys.prefix(m)], ttl_ms, *self._lanes) for m in due),
            )
            self._made_until_s |= dict.fromkeys(due, now_s + self._options.job_ttl_s / 2)
        return bool(due)
