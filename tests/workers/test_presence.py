"""What a worker publishes: cards, failures, heartbeats; and what it finds there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from redis.asyncio import Redis

from camserve.broker import Registry, keys
from camserve.contracts.states import State
from camserve.errors import QueueUnavailable
from camserve.queueing import queue_options
from tests.workers import jobs
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import TINY, factory_card, settings, write_model
from tests.workers.jobs import enqueue, load_job, noise

pytestmark = pytest.mark.anyio


async def test_a_load_job_loads_and_says_so_again(start: Start, redis: Redis) -> None:
    bench = await start()
    assert (await bench.done(await load_job(bench.queue, "tiny"))).state is State.SUCCEEDED
    assert await bench.state("tiny") == "ready"
    # the server lost the card alone, or another worker's failure replaced it
    await redis.hdel(keys.CARDS, "tiny")
    assert (await bench.done(await load_job(bench.queue, "tiny"))).state is State.SUCCEEDED
    assert await bench.state("tiny") == "ready"


async def test_a_load_that_fails_says_why(start: Start, models: Path) -> None:
    write_model(models, "bad", factory_card("raising"))
    bench = await start()
    record = await bench.done(await load_job(bench.queue, "bad"))
    assert record.state is State.FAILED
    assert jobs.failure(record)["code"] == "model_unavailable"
    explained = await bench.done(await enqueue(bench.queue, noise(0), model="bad"))
    assert "the disk is full" in jobs.failure(explained)["detail"]
    card = await bench.card("bad")
    assert card is not None
    assert card.problem is not None
    assert (card.state, card.problem.code) == ("unavailable", "model_unavailable")
    await bench.answer(await enqueue(bench.queue, noise(0)))


async def test_bad_folders_harm_nobody(start: Start, models: Path) -> None:
    write_model(models, "Bad Name", TINY)
    write_model(models, "broken", "source = ")
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert sorted(await bench.registry.cards()) == ["broken", "slow", "tiny"]
    card = await bench.card("broken")
    assert card is not None
    assert card.problem is not None
    assert card.problem.code == "invalid_card"


async def test_what_another_version_of_camserve_wrote_harms_nobody(
    start: Start, redis: Redis
) -> None:
    await redis.hset(keys.CARDS, "tiny", b'{"from": "the future"}')
    await redis.hset(keys.CARDS, "theirs", b'{"from": "the future"}')
    registry = Registry(redis, queue_options(settings()))
    await registry.heartbeat("w9", b'{"also": "from there"}')
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert await bench.state("tiny") == "ready"
    assert "theirs" in await bench.registry.cards()  # w9 may well serve it


async def test_cards_of_models_that_are_gone_are_dropped(start: Start, redis: Redis) -> None:
    await redis.hset(keys.CARDS, "gone", b"{}")
    bench = await start()
    assert sorted(await bench.registry.cards()) == ["slow", "tiny"]


async def test_a_server_that_lost_everything_is_told_everything(start: Start, redis: Redis) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    await redis.flushall()
    await eventually(bench.status)
    assert await eventually(lambda: bench.state("tiny")) == "ready"
    assert await eventually(lambda: bench.state("slow")) == "declared"
    await bench.answer(await enqueue(bench.queue, noise(0)))


async def test_a_card_that_an_outage_kept_back_is_published_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    publish = bench.registry.publish_card
    outages = 1

    async def flaky(model: str, card: bytes) -> None:
        nonlocal outages
        if outages:
            outages -= 1
            raise QueueUnavailable
        await publish(model, card)

    monkeypatch.setattr(bench.registry, "publish_card", flaky)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert outages == 0

    async def ready() -> bool:
        return await bench.state("tiny") == "ready"

    await eventually(ready)


async def test_a_loop_without_models_waits(redis: Redis, tmp_path: Path) -> None:
    bench = Bench(redis, tmp_path / "nothing", settings())
    task = asyncio.create_task(bench.loop.run())
    status = await eventually(bench.status)
    assert status.models == ()
    bench.loop.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await task
