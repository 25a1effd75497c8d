"""Loading and unloading by the API: what is told, whose answer counts; the test plays workers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from camserve.broker import CommandReader, ModelCommand
from camserve.contracts.failures import FailureMessage
from camserve.errors import InvalidCard, ModelUnavailable
from tests.app.front import CARD, Front, commands, problem, running_front

pytestmark = pytest.mark.anyio

LOAD, UNLOAD = "/v1/models/toy/load", "/v1/models/toy/unload"
ASYNC = {"Prefer": "respond-async"}
DECLARED = CARD.model_copy(update={"state": "declared", "input": None})
BROKEN = FailureMessage.of(ModelUnavailable("the hub cannot be reached", worker="w2"))


async def obey(front: Front, reader: CommandReader, worker: str = "w1") -> ModelCommand:
    """Do the next command as a worker does, and answer."""
    (command,) = await commands(reader)
    resident = ("toy",) if command.kind == "load" else ()
    await front.publish(served=False)
    await front.heartbeat("toy", worker=worker, resident=resident)
    await reader.answer(command)
    return command


@pytest.mark.parametrize(("url", "kind"), [(LOAD, "load"), (UNLOAD, "unload")])
async def test_told_and_done(front: Front, url: str, kind: str) -> None:
    await front.publish(DECLARED)
    reader = await front.commanded()
    response, command = await asyncio.gather(front.client.post(url), obey(front, reader))
    assert (command.kind, command.model) == (kind, "toy")
    assert response.status_code == 200, response.text
    summary = response.json()
    residence = {"worker": "w1", "host": "here", "device": "cpu"}
    assert summary["resident_on"] == ([residence] if kind == "load" else [])
    assert (summary["name"], summary["state"], summary["ready"]) == ("toy", "ready", True)
    assert not await reader.next(0.05), "told once"


async def test_all_workers_must_have_done_it(front: Front) -> None:
    await front.heartbeat("toy", worker="w2", device="cuda:0")
    await front.heartbeat("other", worker="w3")  # does not serve it, and is not waited for
    first, second = await front.commanded("w1"), await front.commanded("w2")
    asked = asyncio.create_task(front.client.post(LOAD))
    await obey(front, first)
    assert not (await asyncio.wait([asked], timeout=0.3))[0]
    await obey(front, second, "w2")
    response = await asked
    assert response.status_code == 200
    assert [one["worker"] for one in response.json()["resident_on"]] == ["w1", "w2"]


WAITS = [(ASYNC, "respond-async"), ({"Prefer": "wait=0"}, "wait=0"),
         ({"Prefer": "wait=1"}, "wait=1"), ({}, None)]  # fmt: skip


@pytest.mark.parametrize(("headers", "applied"), WAITS)
async def test_what_lasts_longer_is_202(
    redis_url: str, headers: dict[str, str], applied: str | None
) -> None:
    async with running_front(redis_url, sync_wait_s=1.2) as front:
        await front.publish()
        reader = await front.commanded()
        response = await front.client.post(UNLOAD, headers=headers)
        assert response.status_code == 202
        assert response.headers["Location"] == "/v1/models/toy"
        assert response.headers.get("Preference-Applied") == applied
        assert [one["worker"] for one in response.json()["resident_on"]] == ["w1"]
        assert (await obey(front, reader)).kind == "unload"  # it was told all the same
        (toy,) = (await front.client.get("/v1/models")).json()["models"]
        assert toy["resident_on"] == []


async def test_a_load_that_fails_is_the_answer(front: Front) -> None:
    await front.heartbeat("toy", worker="w2")
    reader = await front.commanded("w2")

    async def worker() -> None:
        (command,) = await commands(reader)
        await reader.answer(command, BROKEN.model_dump_json().encode())

    response, _ = await asyncio.gather(front.client.post(LOAD), worker())
    document = problem(response, 503, "model_unavailable")
    assert (document["detail"], document["worker"]) == ("the hub cannot be reached", "w2")


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_worker_that_dies_over_it_is_not_waited_for(
    front: Front, *, is_replaced: bool
) -> None:
    await front.heartbeat("toy", worker="w2")
    first, second = await front.commanded("w1"), await front.commanded("w2")
    asked = asyncio.create_task(front.client.post(LOAD))
    await obey(front, first)
    assert await commands(second)
    if is_replaced:
        await front.heartbeat("toy", worker="w2", resident=(), restarting=True)
    else:
        await front.registry.remove_worker("w2")
    async with asyncio.timeout(60):
        response = await asked
    assert response.status_code == 200
    assert [one["worker"] for one in response.json()["resident_on"]] == ["w1"]


async def test_the_worker_that_comes_in_its_place_is_told_anew(front: Front) -> None:
    first = await front.commanded("w1")
    asked = asyncio.create_task(front.client.post(LOAD))
    assert await commands(first)
    second = await front.commanded("w2")
    await front.heartbeat("toy", worker="w2", resident=())
    await front.registry.remove_worker("w1")
    assert (await obey(front, second, "w2")).kind == "load"
    response = await asked
    assert response.status_code == 200
    assert [one["worker"] for one in response.json()["resident_on"]] == ["w2"]


async def test_a_model_that_kills_its_workers_is_not_tried_for_ever(redis_url: str) -> None:
    async with running_front(redis_url, max_attempts=2) as front:
        await front.publish()

        async def crashing() -> None:
            for number in (1, 2):
                reader = await front.commanded(f"w{number}")
                assert await commands(reader)
                await front.heartbeat("toy", worker=f"w{number + 1}")
                await front.registry.remove_worker(f"w{number}")

        response, _ = await asyncio.gather(front.client.post(LOAD), crashing())
        assert "ended while" in problem(response, 503, "model_unavailable")["detail"]


async def test_unknown_models_name_the_near_ones(front: Front) -> None:
    for verb in ("load", "unload"):
        response = await front.client.post(f"/v1/models/toi/{verb}")
        assert problem(response, 404, "model_not_found")["near"] == ["toy"]


async def test_a_model_that_nobody_serves(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        await front.publish(served=False)
        problem(await front.client.post(LOAD), 503, "no_worker")
        response = await front.client.post(UNLOAD)  # it is resident nowhere
        assert (response.status_code, response.json()["workers"]) == (200, 0)
        broken = FailureMessage.of(InvalidCard("labels are missing"))
        update = {"state": "unavailable", "problem": broken}
        await front.publish(CARD.model_copy(update=update), served=False)
        assert "labels" in problem(await front.client.post(LOAD), 503, "invalid_card")["detail"]


async def test_the_answer_survives_a_lost_notification(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await front.commanded()

    async def silent() -> None:
        (command,) = await commands(reader)
        # as `answer`, but nothing is published
        await front.redis.hset(f"cam:command:{command.id}", "w1", "")

    async with asyncio.timeout(60):
        response, _ = await asyncio.gather(front.client.post(LOAD), silent())
    assert response.status_code == 200


async def test_redis_away(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    from camserve.broker import CommandSender
    from camserve.errors import QueueUnavailable

    async def away(*_: Any) -> None:
        raise QueueUnavailable

    monkeypatch.setattr(CommandSender, "send", away)
    response: httpx.Response = await front.client.post(LOAD)
    problem(response, 503, "queue_unavailable")
