"""A worker's loop on a real server, with two models: `tiny`, and `slow`, which misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import connect
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import TINY, factory_card, settings, write_model
from workers import batches
from workers import loop as loop_module


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "tiny", TINY)
    write_model(folder, "slow", factory_card("misbehaving", folder=str(tmp_path)))
    return folder


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(redis_url) as client:
        yield client


@pytest.fixture
async def start(
    redis: Redis, models: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Starts a loop, with the settings given; it must stop cleanly when the test ends."""
    monkeypatch.setattr(batches, "BLOCK_S", 0.02)
    monkeypatch.setattr(loop_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(loop_module, "PROGRESS_S", 0.01)
    monkeypatch.setattr(loop_module, "WANTED_S", 0.01)
    monkeypatch.setattr(loop_module, "TELL_S", 0.01)
    running: list[tuple[Bench, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> Bench:
        bench = Bench(redis, models, settings(**{"preload": "none"} | changes))
        await bench.queue.start()
        running.append((bench, asyncio.create_task(bench.loop.run())))
        await eventually(bench.status)
        return bench

    try:
        yield start
        for bench, task in running:
            bench.loop.stop()
            async with asyncio.timeout(60):
                await task
            assert await bench.status() is None  # it took itself off the list
    finally:
        (models.parent / "go").touch()  # no thread may wait on after a test that failed
        for bench, task in running:
            task.cancel()
            await bench.queue.aclose()
