"""Front ends and servers that die between the end of an explanation and its delivery."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from camserve.broker import Registry, WorkerQueue, connect
from camserve.broker.embedded import EmbeddedServer
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.app.front import CARD, Front
from tests.app.outbound.web_server import WebServer
from tests.app.webhooks.inbox import SECRET, Inbox, hooked_front
from tests.app.webhooks.test_deliveries import asked, read, settled
from tests.broker.jobs import assert_at_rest
from tests.service import Service, make_repository

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of its own, to be ill-treated."""
    with EmbeddedServer(tmp_path / "server") as started:
        yield started


async def kill(server: EmbeddedServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()


async def test_the_server_dies_between_two_attempts(
    server: EmbeddedServer, receiver: WebServer
) -> None:
    inbox = Inbox(receiver, answers=[500])
    async with hooked_front(server.url, inbox, webhook_retry_s=0.5) as front:
        job_id = await asked(front, inbox)
        await front.work()
        first = await inbox.next()
        await kill(server)
        server.start()
        assert await inbox.next() == first
        await settled(front, job_id)
        await assert_at_rest(front.redis)


async def test_the_server_is_away_when_a_delivery_is_to_be_noted(
    server: EmbeddedServer, receiver: WebServer
) -> None:
    """It is noted when the server is back, and nobody is told twice."""
    inbox = Inbox(receiver, hold=asyncio.Event())
    assert inbox.hold is not None
    async with hooked_front(server.url, inbox, lease_s=30) as front:
        job_id = await asked(front, inbox)
        await front.work()
        await inbox.next()
        await kill(server)
        inbox.hold.set()
        for _ in range(2):  # as long as it takes to find that the outcome cannot be noted
            assert (await front.client.get(f"/v1/explanations/{job_id}")).status_code == 503
        server.start()
        now = await settled(front, job_id)
    assert now["webhook"]["attempts"] == 1
    assert len(receiver.asked) == 1


def service(redis_url: str, folder: Path, inbox: Inbox, **settings: Any) -> Service:
    """An API process of its own; the test plays the worker."""
    return Service(
        redis_url,
        make_repository(folder / "models"),
        folder,
        webhook_hosts=inbox.server.entry,
        webhook_secret=SECRET,
        webhook_retry_s=0.01,
        lease_s=1,
        **settings,
    )


async def test_a_front_end_is_killed_with_a_delivery_in_hand(
    redis_url: str, tmp_path: Path, receiver: WebServer
) -> None:
    """Another one delivers it when the lease ends."""
    inbox = Inbox(receiver, hold=asyncio.Event())
    assert inbox.hold is not None
    running = service(redis_url, tmp_path, inbox, webhook_timeout_s=1)
    process = running.start_part("app")
    try:
        await asyncio.to_thread(
            running.wait_for, lambda client: client.get("/livez").status_code == 200
        )
        options = queue_options(Settings(redis_url=redis_url, lease_s=1))
        async with (
            connect(redis_url) as redis,
            httpx.AsyncClient(base_url=running.url, timeout=10, trust_env=False) as client,
        ):
            registry = Registry(redis, options)
            front = Front(client, redis, options, registry, WorkerQueue(redis, options, "w1"))
            await front.publish(CARD)
            job_id = await asked(front, inbox)
            await front.work()
            first = await inbox.next()
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        running.processes.clear()
    inbox.hold.set()
    async with hooked_front(redis_url, inbox, webhook_timeout_s=1) as other:
        assert (await read(other, job_id))["webhook"]["state"] == "pending"
        assert await inbox.next() == first
        await settled(other, job_id)
    assert len(receiver.asked) == 2
