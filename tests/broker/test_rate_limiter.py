"""How many calls a caller has: exact, shared by all, by the server's clock."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import Quota, RateLimiter, connect, keys
from camserve.errors import QueueUnavailable

pytestmark = pytest.mark.anyio

LONG_S = 6000.0  # of which the moments that a test takes are no share


async def pass_time(redis: Redis, caller: str, seconds: float) -> None:
    """As if the last call had been so long ago."""
    kept = await redis.get(keys.rate(caller))
    level, at_us = map(int, kept.split())
    await redis.set(keys.rate(caller), f"{level} {at_us - round(seconds * 1e6)}", keepttl=True)


async def drain(limiter: RateLimiter, limit: int, window_s: float = LONG_S) -> Quota:
    """Use it up; returns what the first call beyond finds."""
    for n in range(limit):
        quota = await limiter.take("a", limit, window_s)
        assert (quota.granted, quota.left) == (True, limit - 1 - n)
    return await limiter.take("a", limit, window_s)


@pytest.mark.parametrize("limit", [1, 3, 7, 60])
async def test_exactly_as_many_pass_as_are_granted(redis: Redis, limit: int) -> None:
    refused = await drain(RateLimiter(redis), limit)
    assert (refused.granted, refused.left) == (False, 0)
    assert LONG_S / limit - 5 < refused.wait_s <= LONG_S / limit


async def test_a_refusal_costs_nothing(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    first = await drain(limiter, 4)
    for _ in range(50):
        again = await limiter.take("a", 4, LONG_S)
        assert not again.granted
    assert again.wait_s <= first.wait_s


async def test_one_more_passes_after_the_wait_and_not_before(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    refused = await drain(limiter, 60)
    await pass_time(redis, "a", refused.wait_s - 10)
    assert not (await limiter.take("a", 60, LONG_S)).granted
    await pass_time(redis, "a", 10)
    assert (await limiter.take("a", 60, LONG_S)).granted
    assert not (await limiter.take("a", 60, LONG_S)).granted


async def test_it_passes_when_the_clock_of_the_server_says_so(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    quota = await limiter.take("a", 1, 0.2)
    while quota.granted:
        quota = await limiter.take("a", 1, 0.2)
    await asyncio.sleep(quota.wait_s)
    assert (await limiter.take("a", 1, 0.2)).granted


async def test_what_comes_back_comes_evenly_and_no_more_than_all(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    await drain(limiter, 10)
    await pass_time(redis, "a", LONG_S / 2)
    assert (await limiter.take("a", 10, LONG_S)).left == 4
    await pass_time(redis, "a", LONG_S * 3)
    assert (await limiter.take("a", 10, LONG_S)).left == 9


async def test_the_wait_is_that_for_one_more(redis: Redis) -> None:
    quota = await RateLimiter(redis).take("a", 6, LONG_S)
    assert (quota.left, quota.wait_s) == (5, LONG_S / 6)


async def test_the_largest_limit_is_exact(redis: Redis) -> None:
    quota = await RateLimiter(redis).take("a", 1_000_000)
    assert (quota.granted, quota.left, quota.wait_s) == (True, 999_999, 0.00006)


async def test_what_is_kept_dies_when_it_says_nothing_any_more(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    for n in range(6):
        await limiter.take("a", 6, LONG_S)
        full_again_ms = (n + 1) * LONG_S / 6 * 1000
        assert full_again_ms - 5000 < await redis.pttl(keys.rate("a")) <= full_again_ms + 1


async def test_callers_do_not_share_and_front_ends_do(redis: Redis, redis_url: str) -> None:
    async with connect(redis_url) as other:
        limiters = [RateLimiter(redis), RateLimiter(other)]
        granted = [(await limiters[n % 2].take("a", 4, LONG_S)).granted for n in range(6)]
        assert granted == [True] * 4 + [False] * 2
        assert (await limiters[0].take("b", 4, LONG_S)).granted
        assert (await limiters[0].take("", 4, LONG_S)).granted


async def test_many_at_once_are_counted_one_by_one(redis: Redis, redis_url: str) -> None:
    async with connect(redis_url) as other:
        limiters = [RateLimiter(redis), RateLimiter(other)]
        found = await asyncio.gather(*(limiters[n % 2].take("a", 20, LONG_S) for n in range(60)))
    assert sum(quota.granted for quota in found) == 20
    assert sorted(quota.left for quota in found if quota.granted) == list(range(20))


async def test_a_limit_that_changes_counts_at_once(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    await drain(limiter, 5)
    assert (await limiter.take("a", 10, LONG_S)).left == 4
    assert not (await limiter.take("a", 3, LONG_S)).granted


async def test_a_clock_that_was_set_back_gives_nothing_away_and_locks_nobody_out(
    redis: Redis,
) -> None:
    limiter = RateLimiter(redis)
    await drain(limiter, 3)
    await pass_time(redis, "a", -LONG_S)
    refused = await limiter.take("a", 3, LONG_S)
    assert not refused.granted
    assert refused.wait_s <= LONG_S / 3
    await pass_time(redis, "a", refused.wait_s)
    assert (await limiter.take("a", 3, LONG_S)).granted


async def test_a_server_that_restarted_is_taught_again(redis: Redis) -> None:
    await redis.script_flush()
    assert (await RateLimiter(redis).take("a", 1)).granted


async def test_a_server_that_is_away() -> None:
    async with connect("redis://127.0.0.1:1") as nowhere:
        with pytest.raises(QueueUnavailable):
            await RateLimiter(nowhere).take("a", 1)
