"""Server-sent events, over real HTTP: every change as it happens, from where the client was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn

from app.main import create_app
from app.stopping import Stage
from camserve.broker import (
    Begun,
    JobQueue,
    JobRecord,
    QueueOptions,
    Registry,
    WorkerQueue,
    connect,
)
from camserve.contracts.jobs import Job
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.app.front import Front, problem, result_of

pytestmark = pytest.mark.anyio

ASYNC = {"Prefer": "respond-async"}


class Event(NamedTuple):
    id: str
    data: dict[str, Any]


@asynccontextmanager
async def served_front(redis_url: str, **settings: Any) -> AsyncIterator[tuple[Front, Any]]:
    """A front end behind a real server, in this process."""
    chosen = Settings(redis_url=redis_url, **{"sync_wait_s": 60.0, "lease_s": 1.0, **settings})
    options: QueueOptions = queue_options(chosen)
    app = create_app(chosen)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not running.done()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with (
            connect(redis_url) as redis,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
            ) as client,
        ):
            registry = Registry(redis, options)
            front = Front(client, redis, options, registry, WorkerQueue(redis, options, "w1"))
            await front.publish()
            yield front, app
    finally:
        app.state.stopping.enter(Stage.DRAINING)
        server.should_exit = True
        await running


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[Front]:
    async with served_front(redis_url) as (running, _):
        yield running


@asynccontextmanager
async def stream(
    front: Front, href: str, seen: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    headers = {"Last-Event-ID": seen} if seen else {}
    async with front.client.stream("GET", f"{href}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        yield _events(response)


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    """As the WHATWG has it: fields until an empty line."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields["id"], json.loads(fields["data"]))
            fields = {}


async def accepted(front: Front, **fields: Any) -> str:
    response = await front.post(params=fields, headers=ASYNC)
    assert response.status_code == 202, response.text
    return str(response.headers["Location"])


async def test_every_change_until_the_end(front: Front) -> None:
    before, href = await accepted(front), await accepted(front)
    async with stream(front, href) as events:
        queued = await anext(events)
        assert (queued.data["state"], queued.data["queue_position"]) == ("queued", 1)
        await front.client.delete(before)
        moved = await anext(events)
        assert (moved.data["state"], moved.data["queue_position"]) == ("queued", 0)
        begun = await front.begin()
        running = await anext(events)
        assert (running.data["state"], running.data["progress"]) == ("running", None)
        assert running.data["queue_position"] is None
        await front.worker.report([(begun, 3, 10)])
        assert (await anext(events)).data["progress"] == {"done": 3, "total": 10}
        await front.worker.finish(begun, result_of(_job(begun)))
        last = await anext(events)
        assert last.data == (await front.client.get(href)).json()
        assert last.data["state"] == "succeeded"
        assert last.data["progress"] is None
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    ids = [event.id for event in (queued, moved, running, last)]
    assert len(set(ids)) == 4


def _job(begun: Begun) -> Job:
    return Job.model_validate_json(begun.document)


async def test_it_goes_on_from_what_was_seen(front: Front) -> None:
    href = await accepted(front)
    async with stream(front, href) as events:
        queued = await anext(events)
    # nothing happened: what was seen is not told again
    async with stream(front, href, queued.id) as events:
        begun = await front.begin()
        running = await anext(events)
        assert running.data["state"] == "running"
    # things happened while nobody listened: where it is now is told at once
    await front.worker.finish(begun, result_of(_job(begun)))
    async with stream(front, href, running.id) as events:
        last = [event async for event in events]
    assert [event.data["state"] for event in last] == ["succeeded"]
    # the end was seen: an EventSource must not ask for ever
    response = await front.client.get(f"{href}/events", headers={"Last-Event-ID": last[0].id})
    assert (response.status_code, response.content) == (204, b"")
    # an id of nothing we sent is as good as none
    async with stream(front, href, "nonsense") as events:
        assert [event.id async for event in events] == [last[0].id]


@pytest.mark.parametrize("ending", ["canceled", "failed"])
async def test_ends_without_a_result(front: Front, ending: str) -> None:
    href = await accepted(front)
    async with stream(front, href) as events:
        await anext(events)
        if ending == "canceled":
            await front.client.delete(href)
        else:
            failure = b'{"code": "internal", "detail": "no"}'
            begun = await front.begin()
            await anext(events)
            await front.worker.fail(begun, failure)
        last = [event.data async for event in events][-1]
    assert last["state"] == ending
    assert last["error"]["code"] == {"canceled": "canceled", "failed": "internal"}[ending]


async def test_maps_are_linked_and_not_inside(front: Front) -> None:
    response, _, _ = await front.done(front.post(params={"map": "list"}))
    href = response.headers["Location"]
    assert "data" in response.json()["results"][0]["map"]
    async with stream(front, href) as events:
        (last,) = [event async for event in events]
    assert "data" not in last.data["results"][0]["map"]


async def test_what_is_not_there(front: Front) -> None:
    missing = "/v1/explanations/01JD8Q4V1N0Z7M3K5T9W2XACBE-toy/events"
    problem(await front.client.get(missing), 404, "explanation_not_found")


async def test_head_of_a_stream_ends(front: Front) -> None:
    response = await front.client.head(f"{await accepted(front)}/events")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert "content-length" not in response.headers, "what GET sends has no known length"
    await front.work()
    href = response.request.url.path.removesuffix("/events")
    async with stream(front, href) as events:
        last = await anext(events)
    done = await front.client.head(f"{href}/events", headers={"Last-Event-ID": last.id})
    assert done.status_code == 204


async def test_a_client_that_leaves_leaves_nothing_behind(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = asyncio.Event()
    follow = JobQueue.follow

    async def noted(queue: JobQueue, job_id: str) -> AsyncIterator[JobRecord | None]:
        try:
            async for record in follow(queue, job_id):
                yield record
        finally:
            over.set()

    monkeypatch.setattr(JobQueue, "follow", noted)
    href = await accepted(front)
    async with stream(front, href) as events:
        await anext(events)
        assert not over.is_set()
    await asyncio.wait_for(over.wait(), 10)


async def test_a_server_that_stops_lets_its_streams_end(redis_url: str) -> None:
    async with served_front(redis_url) as (front, app):
        href = await accepted(front)
        async with stream(front, href) as events:
            queued = await anext(events)
            app.state.stopping.enter(Stage.DRAINING)
            with pytest.raises(StopAsyncIteration):
                await anext(events)
    async with served_front(redis_url) as (front, _), stream(front, href, queued.id) as events:
        await front.begin()
        await anext(events)


async def test_it_goes_on_when_redis_comes_back(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    href = await accepted(front)
    async with stream(front, href) as events:
        await anext(events)
        await front.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await front.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await front.begin()
        assert (await anext(events)).data["state"] == "running"


async def test_silence_is_filled(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.events.KEEP_ALIVE_S", 0.0)
    href = await accepted(front)
    async with front.client.stream("GET", f"{href}/events") as response:
        lines = response.aiter_lines()
        while not (await anext(lines)).startswith(":"):
            pass
