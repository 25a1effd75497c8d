"""Many clients at once, each with jobs of its own kind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.faults.clients import Clients
from tests.faults.network import Deed

__all__ = ["Load"]

Client = Callable[["Load", str, str], Awaitable[str]]
LONGEST_S = 300.0
"""A client that is not done by then is left hanging."""


class Load:
    """ends: how many clients ended how."""

    def __init__(self, asking: Clients, seed: int, most_ms: float = 100.0) -> None:
        self.asking = asking
        self.dice = random.Random(seed)
        self.most_ms = most_ms
        self.ends: Counter[str] = Counter()
        self._kinds = [kind for kind, times in KINDS for _ in range(times)]

    async def run(self, jobs: int, at_once: int) -> None:
        """So many clients, of which so many at once ask."""
        left = iter(range(jobs))

        async def one_after_another() -> None:
            for _ in left:
                kind = self.dice.choice(self._kinds)
                fronts = self.dice.sample(["a", "b"], 2)
                try:
                    async with asyncio.timeout(LONGEST_S):
                        end = await kind(self, *fronts)
                except TimeoutError:
                    end = "hanging"
                self.ends[f"{kind.__name__}: {end}"] += 1

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))

    @property
    def ms(self) -> float:
        return self.dice.uniform(0, self.most_ms)

    def told(self) -> list[str]:
        return [f"{count:5}  {end}" for end, count in self.ends.items()]

    @property
    def hanging(self) -> int:
        return sum(count for end, count in self.ends.items() if end.endswith("hanging"))


async def waits(load: Load, *fronts: str) -> str:
    """Without an idempotency key: what it is not told it does not ask for again."""
    job = load.asking.submission(Deed.SLEEP)
    return await load.asking.finish(job, *fronts, value=load.ms)


async def waits_with_key(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True)
    return await load.asking.finish(job, *fronts, value=load.ms)


async def polls(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False)
    return await load.asking.finish(job, *fronts, value=load.ms)


async def polls_bulk(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False)
    return await load.asking.finish(job, *fronts, value=load.ms, priority="bulk")


async def asks_twice(load: Load, *fronts: str) -> str:
    """At both front ends at the same time."""
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False)
    value = load.ms
    await asyncio.gather(*(load.asking.submit(front, job, value=value) for front in fronts))
    return await load.asking.finish(job, *fronts, value=value)


async def follows(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False)
    value = load.ms
    call = await load.asking.submit(fronts[0], job, value=value)
    if call.job_id:
        await load.asking.follow(fronts[1], call.job_id)
    return await load.asking.finish(job, *fronts, value=value)


async def is_called_back(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False, webhook=True)
    return await load.asking.finish(
        job, *fronts, value=load.ms, webhook=load.asking.scene.webhook_url
    )


async def cancels(load: Load, *fronts: str) -> str:
    job = load.asking.submission(Deed.SLEEP, key=True, is_sync=False)
    value = load.ms
    call = await load.asking.submit(fronts[0], job, value=value)
    await asyncio.sleep(load.dice.uniform(0, 0.1))
    if call.job_id:
        await load.asking.cancel(fronts[1], job)
    return await load.asking.finish(job, *fronts, value=value)


async def hurries(load: Load, *fronts: str) -> str:
    """With a deadline that may pass before its turn."""
    deadline_s = load.dice.uniform(0.05, 1.0)
    job = load.asking.submission(Deed.SLEEP, deadline_s=deadline_s)
    return await load.asking.finish(job, *fronts, value=load.ms)


async def fails(load: Load, *fronts: str) -> str:
    deed = load.dice.choice([Deed.RAISE, Deed.RAISE_UNPRINTABLE, Deed.TOO_LARGE])
    job = load.asking.submission(deed, key=True, is_sync=False)
    return await load.asking.finish(job, *fronts)


async def kills(load: Load, *fronts: str) -> str:
    deed = load.dice.choice([Deed.KILL, Deed.SEGFAULT])
    job = load.asking.submission(deed, key=True, is_sync=False)
    return await load.asking.finish(job, *fronts)


KINDS: list[tuple[Client, int]] = [
    (waits, 30),
    (waits_with_key, 40),
    (polls, 30),
    (polls_bulk, 30),
    (asks_twice, 10),
    (follows, 10),
    (is_called_back, 20),
    (cancels, 15),
    (hurries, 10),
    (fails, 4),
    (kills, 1),
]
