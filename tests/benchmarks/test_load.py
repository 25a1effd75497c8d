"""The load generator, against a server whose faults are known."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from benchmarks.load import ask, closed_loop, open_loop, request

pytestmark = pytest.mark.anyio
STALL_S = 0.5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stalling:
    """Answers at once, but stalls for STALL_S with all requests from the `at`-th on, once."""

    def __init__(self, at: int | None = None, status: int = 200) -> None:
        self.at, self.status = at, status
        self.asked: list[bytes] = []
        self.was_asked = asyncio.Event()
        self.connections: list[asyncio.Task[None]] = []
        self._stall: asyncio.Task[None] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.asked.append(head + await reader.readexactly(length))
                self.was_asked.set()
                if len(self.asked) == self.at:
                    self._stall = asyncio.create_task(asyncio.sleep(STALL_S))
                if self._stall:
                    await asyncio.shield(self._stall)
                lines = (f"HTTP/1.1 {self.status} x", "X-Number: 7", "Content-Length: 2", "", "ok")
                writer.write("\r\n".join(lines).encode())
        writer.close()
        await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
            await asyncio.gather(*self.connections)


REQUESTS = [request("/a?b=c", b"one", Cache_Control="no-cache"), request("/a?b=c", b"three")]


async def test_a_request_goes_as_it_was_prepared() -> None:
    server = Stalling()
    async with server.listening() as port:
        answer = await ask(port, REQUESTS[0])
    assert (answer.status, answer.headers["x-number"], answer.body) == (200, "7", b"ok")
    assert server.asked == REQUESTS[:1]
    assert b"\r\nCache-Control: no-cache\r\n" in server.asked[0]


async def test_a_closed_loop_takes_requests_in_turn_on_kept_connections() -> None:
    server = Stalling()
    async with server.listening() as port:
        load = await closed_loop(port, REQUESTS, clients=3, lasting_s=0.1)
    assert len(server.connections) == 3
    assert len(load.answers) == len(server.asked)
    assert server.asked[:4] == REQUESTS * 2
    assert load.latencies("all").count == len(server.asked)


async def test_a_stall_is_in_the_latencies_of_all_who_would_have_asked_meanwhile() -> None:
    """A client that waits for its answer sees one late answer; users who come all the while see
    half of a second of them."""
    server = Stalling(at=20)
    async with server.listening() as port:
        load = await open_loop(port, REQUESTS, per_s=100, lasting_s=1)
    assert len(load.answers) == 100
    waits_s = sorted(one.took_s for one in load.answers)
    assert waits_s[-1] >= STALL_S * 0.9
    # of 50 that were due while it stalled, the n-th waits for what was left of it
    assert sum(wait_s > STALL_S / 2 for wait_s in waits_s) >= 20
    closed = Stalling(at=20)
    async with closed.listening() as port:
        load = await closed_loop(port, REQUESTS, clients=1, lasting_s=1)
    # no more such waits fit into the second
    assert 1 <= sum(one.took_s >= STALL_S * 0.9 for one in load.answers) <= 3


async def test_a_generator_that_is_late_itself_counts_from_when_it_was_due() -> None:
    server = Stalling()
    async with server.listening() as port:
        task = asyncio.create_task(open_loop(port, REQUESTS, per_s=20, lasting_s=0.5))
        await server.was_asked.wait()
        time.sleep(0.3)  # noqa: ASYNC251 - the loop itself stands still
        load = await task
    assert max(one.took_s for one in load.answers) >= 0.2


async def test_failures_are_no_quick_answers() -> None:
    server = Stalling(status=503)
    async with server.listening() as port:
        load = await closed_loop(port, REQUESTS, clients=1, lasting_s=0.05)
    with pytest.raises(RuntimeError, match=r"the load: .* failed: ok"):
        load.latencies("the load")
