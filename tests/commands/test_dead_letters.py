"""`camserve dead-letters`, and the same calls of both clients, against a real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camserve.broker import JobQueue, QueueOptions, connect, new_job_id
from camserve.client import AsyncClient, Client, Conflict, NotFound
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import Job
from tests.app.front import CARD, running_front
from tests.broker.jobs import kill
from tests.commands.in_process import Camserve, runner
from tests.service import Service, make_repository

OPTIONS = QueueOptions()


@pytest.fixture
def alone(redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """A front end whose worker is the test."""
    service = Service(redis_url, make_repository(tmp_path / "models"), tmp_path)
    service.start_part("app")
    try:
        service.wait_for(lambda client: client.get("/livez").status_code == 200)
        yield service
    finally:
        service.stop()


@pytest.fixture
def camserve(alone: Service, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Camserve:
    return runner(alone.url, monkeypatch, capfdbinary)


def letters(redis_url: str, *models: str) -> list[str]:
    """A dead letter of each model that is named, which a worker serves; their ids."""

    async def make() -> list[str]:
        async with connect(redis_url) as redis, running_front(redis_url) as front:
            ids = []
            queue = JobQueue(redis, OPTIONS)
            for model in models:
                card: ResolvedCard = CARD.model_copy(update={"name": model})
                await front.publish(card, served=False)
                await front.heartbeat(*models)
                document = Job(model=model, model_version="v1", input_digest="ab" * 32)
                ids.append(
                    await kill(
                        queue, redis, OPTIONS, job_id=None, model=model,
                        document=document.model_dump_json().encode(),
                    )
                )  # fmt: skip
            return ids

    return asyncio.run(make())


def test_list_replay_purge(camserve: Camserve, alone: Service) -> None:
    assert camserve("dead-letters", "list").out == b"no dead letters\n"
    first, second, third = letters(alone.setting("redis_url"), "toy", "toy", "other")
    listed = camserve("dead-letters", "list").out.decode().splitlines()
    assert [line.split()[0] for line in listed] == ["id", third, second, first]
    assert "abababababab" in listed[1]
    assert "until" in listed[1]
    of_other = camserve("dead-letters", "list", "--model", "other", "--json").json
    assert [one["id"] for one in of_other["dead_letters"]] == [third]

    replayed = camserve("dead-letters", "replay", first, second, "--json")
    assert replayed.code == 0
    again = [json.loads(line)["replay"]["id"] for line in replayed.out.splitlines()]
    said = camserve("dead-letters", "replay", first)
    assert said.out.decode() == f"{first} is done again: /v1/explanations/{again[0]}\n"
    assert "queued" in camserve("dead-letters", "list", "-m", "toy").out.decode()

    assert camserve("dead-letters", "purge", first).out == b"1 forgotten\n"
    assert camserve("dead-letters", "purge", first, second).out == b"1 forgotten\n"
    assert camserve("dead-letters", "purge", "--model", "toy").out == b"0 forgotten\n"
    assert camserve("dead-letters", "purge", "--all", "--json").json == {"purged": 1}
    gone = camserve("dead-letters", "replay", third)
    assert gone.code == 4
    assert "there is no dead letter" in gone.err


@pytest.mark.parametrize("wrong", [(), ("x", "--all"), ("--all", "--model", "toy")])
def test_a_purge_says_of_what(camserve: Camserve, wrong: tuple[str, ...]) -> None:
    done = camserve("dead-letters", "purge", *wrong)
    assert done.code == 2
    assert "usage: camserve dead-letters purge" in done.err


def test_both_clients(alone: Service) -> None:
    first, second = letters(alone.setting("redis_url"), "toy", "toy")
    with Client(alone.url) as client:
        assert [one.id for one in client.dead_letters(model="toy")] == [second, first]
        replay = client.replay(first).replay
        assert replay is not None
        explanation = client.explanation(replay.id)
        assert explanation.document.replay_of == first
        with pytest.raises(NotFound):
            client.replay(new_job_id("toy"))

    async def ask() -> None:
        async with connect(alone.setting("redis_url")) as redis, AsyncClient(alone.url) as client:
            assert [one.id async for one in client.dead_letters()] == [second, first]
            await redis.delete(f"cam:{{toy}}:in:{second}")
            with pytest.raises(Conflict):
                await client.replay(second)
            assert await client.purge(second) == 1
            assert await client.purge() == 1

    asyncio.run(ask())
