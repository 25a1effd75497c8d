"""Several processes of the API at one address: who answers, who is replaced, what is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from camserve.broker import Begun, QueueOptions, Registry, WorkerQueue, connect
from camserve.contracts.jobs import Job
from tests.app.front import Front, png, result_of
from tests.app.test_metrics import parsed
from tests.service import ROOT, Service, free_port, make_repository

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="of Linux")]

COUNT = 2
URL = "/v1/explanations?model=toy"
PNG = {"Content-Type": "image/png"}
READ_S = 60.0


@dataclass
class Several:
    """A front end of COUNT processes. The test plays the worker."""

    service: Service
    front: Front
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        return self.service.processes["app"]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.supervisor.pid).children()

    async def serving(self, *gone: psutil.Process) -> list[psutil.Process]:
        """COUNT children that are not `gone`, once each answers."""
        while True:
            found = [one for one in self.children() if one not in gone]
            if len(found) == COUNT and all([await self._answers(one, found) for one in found]):
                return found
            await asyncio.sleep(0.05)

    async def _answers(self, child: psutil.Process, all_: list[psutil.Process]) -> bool:
        try:
            async with self.only(child, all_), self.made() as client:
                return (await client.get("/livez", timeout=1)).status_code == 200
        except (httpx.TransportError, psutil.NoSuchProcess):
            return False  # it is not as far yet

    async def logged(self, text: bytes, times: int) -> None:
        """Returns when it has been so often."""
        while self.service.log.read_bytes().count(text) < times:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def only(self, child: psutil.Process, all_: list[psutil.Process]) -> AsyncIterator[None]:
        """While no other can accept a connection."""
        others = [one for one in all_ if one != child]
        try:
            for one in others:
                one.suspend()
            yield
        finally:
            for one in others:
                one.resume()

    @asynccontextmanager
    async def made(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=self.service.url, timeout=READ_S, trust_env=False
        ) as client:
            yield client

    async def client_of(
        self, child: psutil.Process, all_: list[psutil.Process]
    ) -> httpx.AsyncClient:
        """A client with a connection to this one, which it keeps."""
        client = httpx.AsyncClient(base_url=self.service.url, timeout=READ_S, trust_env=False)
        self.clients.append(client)
        async with self.only(child, all_):
            assert (await client.get("/livez")).status_code == 200
        return client


@pytest.fixture
async def several(redis_url: str, tmp_path: Path) -> AsyncIterator[Several]:
    models = make_repository(tmp_path / "models")
    service = Service(
        redis_url, models, tmp_path, api_processes=COUNT, sync_wait_s=60, drain_s=60,
        worker_stale_s=600,  # the worker that the test plays beats once
    )  # fmt: skip
    options = QueueOptions()
    async with connect(redis_url) as redis:
        registry, worker = Registry(redis, options), WorkerQueue(redis, options, "w1")
        front = Front(None, redis, options, registry, worker)  # type: ignore[arg-type]
        await front.publish()
        service.start_part("app")
        one = Several(service, front)
        try:
            await asyncio.to_thread(
                service.wait_for, lambda client: client.get("/livez").status_code == 200
            )
            yield one
        finally:
            for client in one.clients:
                await client.aclose()
            for child in one.children() if one.supervisor.poll() is None else ():
                child.resume()
            await asyncio.to_thread(service.stop)


def explain(client: httpx.AsyncClient, **headers: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post(URL, content=png(), headers=PNG | headers))


async def finish(front: Front, count: int) -> None:
    """Play the worker for so many jobs."""
    for _ in range(count):
        begun = await front.begin()
        result = result_of(Job.model_validate_json(begun.document))
        assert await front.worker.finish(begun, result)


async def test_what_they_are_together(several: Several) -> None:
    """All answer, one that dies is replaced, and at the end nobody is cut off."""
    children = await several.serving()
    await _know_of_each_other(several, children)
    await _the_line_outlives_one(several, children)
    children = await several.serving(children[0])
    await _a_kill_loses_no_others(several, children)
    await _all_drain(several, await several.serving(children[0]))


async def _know_of_each_other(several: Several, children: list[psutil.Process]) -> None:
    """A repeated request is the same one, and what they count adds up, whoever is asked."""
    clients = [await several.client_of(child, children) for child in children]
    key = {"Idempotency-Key": "once"}
    first = explain(clients[0], **key)
    await finish(several.front, 1)
    again = await clients[1].post(URL, content=png(), headers=PNG | key)
    assert again.json()["id"] == (await first).json()["id"]
    for client in clients:
        await told(client, 2)


async def told(client: httpx.AsyncClient, explained: int) -> None:
    """Returns when just so many requests are counted: each is when its answer has been sent."""
    labels = frozenset({("route", "/v1/explanations"), ("method", "POST"), ("status", "200")})
    while True:
        samples = parsed((await client.get("/metrics")).text)
        if samples.get(("camserve_http_requests_total", labels)) == explained:
            return
        await asyncio.sleep(0.02)


async def _the_line_outlives_one(several: Several, children: list[psutil.Process]) -> None:
    """Who waits in the line of the socket is served by another."""
    for child in children:
        child.suspend()
    reader, writer = await asyncio.open_connection("127.0.0.1", several.service.port)
    with closing(writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        children[0].kill()
        children[1].resume()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def _a_kill_loses_no_others(several: Several, children: list[psutil.Process]) -> None:
    lost, kept = [await several.client_of(child, children) for child in children]
    both = [explain(lost), explain(kept)]
    begun = [await several.front.begin() for _ in both]
    children[0].kill()
    with pytest.raises(httpx.TransportError):
        await both[0]
    # nobody is refused while there is one less
    async with several.made() as client:
        assert (await client.get("/livez")).status_code == 200
    await end_all(several.front, begun)
    assert (await both[1]).status_code == 200
    assert b"SIGKILL" in several.service.log.read_bytes()
    # what the dead ones had counted is still told
    await told(kept, 3)


async def _all_drain(several: Several, children: list[psutil.Process]) -> None:
    """Each answers whom it has accepted, and then nobody listens any more."""
    clients = [await several.client_of(child, children) for child in children]
    calls = [explain(client) for client in clients]
    begun = [await several.front.begin() for _ in calls]
    several.supervisor.terminate()
    await several.logged(b"the API is stopping", COUNT)
    await end_all(several.front, begun)
    for call in calls:
        answer = await call
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
    assert await asyncio.to_thread(several.supervisor.wait, 60) == 0
    assert not [child for child in children if child.is_running()]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", several.service.port)


async def test_they_end_with_their_supervisor(several: Several) -> None:
    children = await several.serving()
    several.supervisor.kill()
    several.supervisor.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
    assert not alive


async def test_a_second_ctrl_c_waits_for_nobody(several: Several) -> None:
    children = await several.serving()
    client = await several.client_of(children[0], children)
    call = explain(client)
    await several.front.begin()
    several.supervisor.send_signal(signal.SIGINT)
    await several.logged(b"the API is stopping", COUNT)
    several.supervisor.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(several.supervisor.wait, 60) == 0
    with pytest.raises(httpx.TransportError):
        await call


async def end_all(front: Front, begun: list[Begun]) -> None:
    for one in begun:
        await front.worker.finish(one, result_of(Job.model_validate_json(one.document)))


def ended(**settings: Any) -> tuple[int, str]:
    """How a front end of two processes ends that cannot start."""
    environment = os.environ | {"CAMSERVE_API_PROCESSES": "2"}
    environment |= {f"CAMSERVE_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return process.returncode, process.stdout + process.stderr


def test_settings_that_mean_nothing_are_not_tried_again() -> None:
    code, said = ended(port=free_port())
    assert code == 2
    assert "CAMSERVE_REDIS_URL is not set" in said


def test_an_address_that_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, said = ended(port=other.getsockname()[1], redis_url="redis://127.0.0.1:1")
    assert code == 3
    assert "CAMSERVE_PORT" in said
