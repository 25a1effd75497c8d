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

_FIRST_OF_FRESH = keys.RANKS[1]
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
        self._settled_for = 0
        self._last_served: str | None = None

    @property
    def reserve(self) -> Sequence[Claim]:
        """What came along with another claim and waits for its turn; leased like any other."""
        return tuple(self._reserve)

    def empty_reserve(self) -> list[Claim]:
        self._settled_for = 0
        reserve, self._reserve = self._reserve, []
        return reserve

    async def claim(
        self, models: Sequence[str], limit: int, block_s: float, *, redelivered: bool
    ) -> list[Claim]:
        if not models:
            return []
        lanes = self._lanes if redelivered else self._fresh
        claims = await self._next(models, lanes, limit)
        if not claims and await self._relieve(models, limit):
            claims = await self._next(models, lanes, limit)
        if not claims and block_s > 0:
            first = await self._block(models, lanes, min(block_s, LONGEST_BLOCK_S))
            if first:
                self._reserve.insert(0, first)
                claims = await self._next(models, lanes, limit)
        return claims

    async def claim_ahead(self, models: Sequence[str], limit: int) -> list[Claim]:
        order, kept = self._in_turn(models, self._fresh)
        if kept:
            order = order[:1]
        if order and sum(claim.weight for claim in kept) < limit:
            # all in the first rank: what has been claimed once is not displaced by what is now
            found, _ = await self._take(
                order, self._fresh, limit, [kept], consumer=keys.ahead(self._consumer)
            )
            self._reserve = _by_rank([*self._reserve, *found])
            if await self._is_settled(models, limit):
                self._settled_for = limit
        return self._in_turn(models, self._fresh)[1]

    async def _is_settled(self, models: Sequence[str], limit: int) -> bool:
        """Whether what is in reserve is the next batch, whatever comes: but for a redelivered job,
        which waits for one batch more if it comes after this look."""
        is_full = sum(claim.weight for claim in self._reserve) >= limit
        first = {(claim.model, keys.rank(claim.lane)) for claim in self._reserve}
        if not is_full or len(first) > 1 or keys.rank(self._reserve[0].lane) != _FIRST_OF_FRESH:
            return False
        return not await self.redelivered_waits(models)

    def strays(self, models: Sequence[str]) -> list[Claim]:
        """What is in reserve of other models than these; it is no longer."""
        strays = [claim for claim in self._reserve if claim.model not in models]
        if strays:
            self._settled_for = 0
        self._reserve = [claim for claim in self._reserve if claim.model in models]
        return strays

    async def redelivered(self, models: Sequence[str], limit: int) -> list[Claim]:
        """Up to `limit` redelivered claims, each to run alone."""
        claims: list[Claim] = []
        while len(claims) < limit:
            more, _ = await self._take(models, self._redelivered, 1)
            if not more:
                break
            claims += more
        return claims

    async def redelivered_waits(self, models: Sequence[str]) -> bool:
        lanes = self._redelivered
        looks = (call("waiting", [keys.prefix(model)], *lanes) for model in models)
        return any(await execute(self._redis, *looks))

    async def _next(self, models: Sequence[str], lanes: Sequence[str], limit: int) -> list[Claim]:
        """What goes now, without waiting: of the reserve, and of what nobody was given yet."""
        order, kept = self._in_turn(models, lanes)
        found: list[Claim] = []
        going = len(kept)
        if limit != self._settled_for:
            found, going = await self._take(order, lanes, limit, self._ranks_of(kept, lanes))
        self._settled_for = 0
        gone = kept[:going]
        self._reserve = [claim for claim in self._reserve if claim not in gone]
        claims = _by_rank([*gone, *found])
        if claims:
            self._last_served = claims[0].model
        return claims

    def _in_turn(
        self, models: Sequence[str], lanes: Sequence[str]
    ) -> tuple[Sequence[str], list[Claim]]:
        """The models in the order to look at them, and what is in reserve of the first one.

        What has been claimed has had its turn; else it is that of the model after the last served
        one, lest a busy model starves the others.
        """
        reserve = [one for one in self._reserve if one.lane in lanes and one.model in models]
        if reserve:
            first = reserve[0].model
            kept = [claim for claim in reserve if claim.model == first]
            return [first, *(model for model in models if model != first)], kept
        if self._last_served is None or self._last_served not in models:
            return models, []
        after = list(models).index(self._last_served) + 1
        return [*models[after:], *models[:after]], []

    def _ranks_of(self, kept: Sequence[Claim], lanes: Sequence[str]) -> list[list[Claim]]:
        """By the ranks of the lanes."""
        ranks = [keys.rank(lane) for lane in lanes[:: self._width]]
        return [[claim for claim in kept if keys.rank(claim.lane) == rank] for rank in ranks]

    async def _take(
        self,
        models: Sequence[str],
        lanes: Sequence[str],
        limit: int,
        reserve: Sequence[Sequence[Claim]] = (),
        *,
        consumer: str | None = None,
    ) -> tuple[list[Claim], int]:
        """New claims, and how many of the reserve they go with: of the first model, by rank."""
        ranks: list[str] = []
        for number, start in enumerate(range(0, len(lanes), self._width)):
            kept = reserve[number] if number < len(reserve) else ()
            ranks += [",".join(str(claim.weight) for claim in kept)]
            ranks += lanes[start : start + self._width]
        ((going, found),) = await execute(
            self._redis,
            call(
                "claim",
                [keys.prefix(model) for model in models],
                consumer or self._consumer,
                limit,
                self._options.job_ttl_ms,
                self._width,
                *ranks,
            ),
        )
        claims = [
            Claim(
                job_id.decode(),
                models[index - 1],
                lane.decode(),
                entry.decode(),
                weight,
                consumer or self._consumer,
            )
            for index, lane, entry, job_id, weight in found
        ]
        return claims, going

    async def _relieve(self, models: Sequence[str], most: int) -> bool:
        """Whether others hold ahead what could be begun here, and have let go of it."""
        ttl_ms = self._options.job_ttl_ms
        calls = [
            call("relieve", [keys.prefix(model)], most, ttl_ms, *self._fresh) for model in models
        ]
        return any(await execute(self._redis, *calls))

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
                self._consumer,
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


def _by_rank(claims: Sequence[Claim]) -> list[Claim]:
    return sorted(claims, key=lambda claim: keys.RANKS.index(keys.rank(claim.lane)))
