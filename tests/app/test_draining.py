"""A front end that is told to stop answers whom it accepted, and says no to nobody too early."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.stopping import Stage, Stopping
from camserve.broker import Begun
from camserve.broker.embedded import EmbeddedServer
from camserve.contracts.jobs import Job
from camserve.errors import ShuttingDown
from tests.app.front import png, problem, result_of
from tests.app.serving import Serving, serving

pytestmark = pytest.mark.anyio

URL = "/v1/explanations?model=toy"
PNG = {"Content-Type": "image/png"}
INSTANCES = {"instances": [[[[0.5] * 32] * 32] * 3]}
HALF = (
    b"POST /v1/explanations?model=toy HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Content-Length: 1000\r\n\r\n1234"
)


def connected(port: int, sent: bytes) -> socket.socket:
    """A client that is there before the server knows."""
    made = socket.create_connection(("127.0.0.1", port))
    made.sendall(sent)
    made.setblocking(False)
    return made


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def asked(
    one: Serving, url: str = URL, **body: Any
) -> tuple[asyncio.Task[httpx.Response], Begun]:
    """A call that waits, and its job in the hands of a worker."""
    body = body or {"content": png(), "headers": PNG}
    call = asyncio.create_task(one.front.client.post(url, **body))
    return call, await one.front.begin()


async def test_whoever_was_accepted_is_answered(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each by its kind: those whose job ends during the drain, and those whose job does not."""
    async with (
        serving(redis_url, drain_s=1000, stall_s=1000) as one,
        one.connection() as (kept, keep),
        one.connection() as (slow, upload),
        one.connection() as (_, _silent),
    ):
        await one.front.publish()
        queue = one.front.worker
        soon, soon_job = await asked(one)
        late, late_job = await asked(one)
        guess, guess_job = await asked(one, "/v1/models/toy/predict", content=png(), headers=PNG)
        theirs, their_job = await asked(one, "/v1/models/toy:explain", json=INSTANCES)
        told = asyncio.create_task(one.front.client.post("/v1/models/toy/load"))
        upload.write(HALF)
        keep.write(get("/livez"))
        await kept.readuntil(b"ok\n")
        one.server.handle_exit(signal.SIGTERM, None)
        await one.stopping.wait_for(Stage.DRAINING)
        assert await one.is_refused()

        keep.write(get("/readyz"))
        answer = await kept.read()  # to its end: the last one of a connection that was kept
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer
        assert b"being stopped" in answer
        assert await queue.finish(soon_job, result_of(Job.model_validate_json(soon_job.document)))
        response = await soon
        assert response.status_code == 200
        assert response.headers["connection"] == "close"

        one.stopping.enter(Stage.LATE)  # the time is up
        response = await late
        assert response.status_code == 202, response.text
        assert response.headers["location"].endswith(late_job.job_id)
        assert not await queue.is_canceled(late_job)
        assert (await told).status_code == 202
        # these know no 202: one can be fetched, one is of no use to anybody
        document = (await theirs).json()
        assert (document["code"], document["status"]) == ("shutting_down", 503)
        assert document["explanation"].endswith(their_job.job_id)
        assert problem(await guess, 503, "shutting_down")["retry_after_s"] == 1
        assert await queue.is_canceled(guess_job)
        answer = await slow.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"shutting_down" in answer
        await one.end
    assert "Traceback" not in caplog.text


async def test_load_balancers_are_told_before_it_stops_listening(redis_url: str) -> None:
    async with serving(redis_url, shutdown_delay_s=1000) as one:
        await one.front.publish()
        assert (await one.front.client.get("/readyz")).status_code == 200
        one.server.handle_exit(signal.SIGTERM, None)
        await one.stopping.wait_for(Stage.LEAVING)
        response = await one.front.client.get("/readyz")
        assert response.status_code == 503
        assert response.headers["connection"] == "close"
        assert response.json()["reason"] == "this front end is being stopped"
        theirs = await one.front.client.get("/v2/health/ready")
        assert theirs.status_code == 503
        assert theirs.json()["code"] == "shutting_down"
        assert (await one.front.client.get("/livez")).status_code == 200  # each is a new connection
        response, *_ = await one.front.done(one.front.post())
        assert response.status_code == 200
        one.server.handle_exit(signal.SIGINT, None)
        await one.end
        assert await one.is_refused()


async def test_a_second_interrupt_ends_it_at_once(redis_url: str) -> None:
    async with serving(redis_url, drain_s=1000) as one:
        await one.front.publish()
        call, _ = await asked(one)
        one.server.handle_exit(signal.SIGTERM, None)
        await one.stopping.wait_for(Stage.DRAINING)
        assert await one.is_refused()
        one.server.handle_exit(signal.SIGTERM, None)  # as the first: of a manager and of a group
        await asyncio.wait([one.end], timeout=0.3)
        assert not one.end.done()
        one.server.handle_exit(signal.SIGINT, None)
        await one.end
        with pytest.raises(httpx.TransportError):
            await call


async def test_a_wait_may_run_out_in_the_moment_in_which_it_becomes_late() -> None:
    stopping, said = Stopping(), asyncio.Event()

    def enter() -> None:
        stopping.enter(Stage.LATE)
        said.set()

    async def wait() -> None:
        async with stopping.within(0):
            asyncio.get_running_loop().call_soon(enter)  # between the time-out and our turn
            await asyncio.Event().wait()

    with pytest.raises(ShuttingDown):
        await wait()
    assert said.is_set()


async def test_whoever_the_kernel_has_accepted_is_served(redis_url: str) -> None:
    """They are in the line of the socket when it is closed, and would find their call reset."""
    async with serving(redis_url) as one:
        loop = asyncio.get_running_loop()
        clients = [connected(one.port, get("/livez")) for _ in range(20)]
        one.server._stop_listening()  # the event loop had no turn to accept them
        for client in clients:
            with client:
                assert b" 200 " in await loop.sock_recv(client, 4096)
        assert await one.is_refused()


async def test_it_ends_well_although_no_file_can_be_opened(redis_url: str) -> None:
    async with serving(redis_url, drain_s=1000) as one:
        await one.front.publish()
        call, begun = await asked(one)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            one.server.handle_exit(signal.SIGTERM, None)
            drains = asyncio.create_task(one.stopping.wait_for(Stage.DRAINING))
            await asyncio.wait([drains, one.end], return_when=asyncio.FIRST_COMPLETED)
            assert drains.done()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        result = result_of(Job.model_validate_json(begun.document))
        assert await one.front.worker.finish(begun, result)
        assert (await call).status_code == 200
        await one.end


async def test_it_ends_in_time_although_redis_hangs(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server") as server:
        async with serving(server.url, drain_s=0.5) as one:
            await one.front.publish()
            call, _ = await asked(one)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                one.server.handle_exit(signal.SIGTERM, None)
                problem(await call, 503, "queue_unavailable")
                await one.end
            finally:
                os.kill(server.pid, signal.SIGCONT)
