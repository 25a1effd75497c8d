from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import QueueOptions, Registry

pytestmark = pytest.mark.anyio


async def test_cards_come_and_go(redis: Redis, options: QueueOptions):
    registry = Registry(redis, options)
    assert await registry.cards() == {}
    await registry.publish_card("b", b"{2}")
    await registry.publish_card("a", b"{1}")
    assert list((await registry.cards()).items()) == [("a", b"{1}"), ("b", b"{2}")]
    assert await registry.card("a") == b"{1}"
    await registry.remove_card("a")
    assert await registry.card("a") is None
    with pytest.raises(ValueError, match="not a model name"):
        await registry.publish_card("{braces}", b"")


async def test_a_worker_lives_as_long_as_its_heart_beats(redis: Redis):
    registry = Registry(redis, QueueOptions(worker_stale_s=600))
    status = b'{"many":\n"lines"}'
    assert not await registry.heartbeat("w", status)
    assert await registry.heartbeat("w", status)
    assert await registry.workers() == {"w": status}
    (record,) = (await registry.worker_records()).values()
    assert record.status == status
    await asyncio.sleep(0.02)
    assert await Registry(redis, QueueOptions(worker_stale_s=0.01)).workers() == {}


async def test_a_worker_learns_that_the_server_forgot_it(redis: Redis, options: QueueOptions):
    registry = Registry(redis, options)
    await registry.heartbeat("w", b"")
    await redis.flushall()
    assert not await registry.heartbeat("w", b"")
    await registry.remove_worker("w")
    assert await registry.workers() == {}
