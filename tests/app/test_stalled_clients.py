"""Clients that send half of something, or nothing, or leave their answer: none stays for ever.

The clock of the event loop is the test's: minutes pass at once, and none passes unasked.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from app.http_protocol import UNWANTED_S, Protocol
from tests.app.front import png
from tests.app.serving import Serving, serving

pytestmark = pytest.mark.anyio

STALL_S = 1000.0
KEEP_ALIVE_S = 5000.0
HEAD = b"POST /v1/explanations?model=toy HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Clock:
    """Of the event loop; stands still but for what `passes`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._real, self._ahead_s = self._loop.time, 0.0
        self._heard = asyncio.Event()
        monkeypatch.setattr(self._loop, "time", lambda: self._real() + self._ahead_s)
        received = Protocol.data_received

        def data_received(protocol: Protocol, data: bytes) -> None:
            received(protocol, data)
            self._heard.set()

        monkeypatch.setattr(Protocol, "data_received", data_received)

    async def passes(self, seconds: float) -> None:
        self._ahead_s += seconds
        await self.settled()

    async def sent(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send it, and return when the server has heard it."""
        self._heard.clear()
        writer.write(data)
        await self._heard.wait()
        await self.settled()

    async def connected(self, one: Serving, count: int) -> None:
        """The server knows of so many connections."""
        while len(one.server.server_state.connections) < count:  # noqa: ASYNC110 - of uvicorn
            await asyncio.sleep(0)

    async def settled(self) -> None:
        """All tasks that can go on have done so."""
        for _ in range(30):
            await asyncio.sleep(0)


Start = Callable[..., Awaitable[Serving]]


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def limits(**more: float) -> dict[str, float]:
    return {"stall_s": STALL_S, "keep_alive_s": KEEP_ALIVE_S, **more}


def the_problem(answer: bytes, status: int, code: str) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in head.lower()
    assert b"content-type: application/problem+json" in head.lower()
    document = json.loads(body)
    assert document["code"] == code
    return dict(document)


async def test_a_head_has_so_long_in_all(redis_url: str, clock: Clock) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        await clock.sent(writer, HEAD)
        await clock.passes(STALL_S / 2)
        await clock.sent(writer, b"X-Slow: 1\r\n")  # a line now and then helps nobody
        await clock.passes(STALL_S / 2 - 1)
        assert not reader.at_eof()
        await clock.passes(1)
        assert the_problem(await reader.read(), 408, "request_timeout")["limit"] == STALL_S


async def test_also_the_head_of_a_second_request(redis_url: str, clock: Clock) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        await clock.sent(writer, GET + GET[:20])
        assert await reader.readuntil(b"ok\n")
        await clock.passes(STALL_S)
        the_problem(await reader.read(), 408, "request_timeout")


async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    redis_url: str, clock: Clock
) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, _):
        await clock.connected(one, 1)
        await clock.passes(STALL_S - 1)
        assert one.server.server_state.connections
        await clock.passes(1)
        assert await reader.read() == b""


async def test_a_body_that_moves_is_never_cut_off_and_one_that_stands_still_is(
    redis_url: str, clock: Clock
) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        await one.front.publish()
        await clock.sent(writer, HEAD + b"X-Request-ID: mine\r\nContent-Length: 100\r\n\r\n")
        for _ in range(10):
            await clock.passes(STALL_S - 1)
            await clock.sent(writer, b"1")
        await clock.passes(STALL_S - 1)
        assert len(one.server.server_state.connections) == 1
        await clock.passes(1)
        answer = await reader.read()
        assert the_problem(answer, 408, "request_timeout")["request_id"] == "mine"


async def test_a_slow_upload_is_answered_like_any_other(redis_url: str, clock: Clock) -> None:
    picture = png()
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        await one.front.publish()
        size = f"Prefer: respond-async\r\nContent-Length: {len(picture)}\r\n\r\n"
        await clock.sent(writer, HEAD + size.encode())
        for byte in picture:
            await clock.passes(STALL_S / 2)
            await clock.sent(writer, bytes([byte]))
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")


async def test_a_body_that_nobody_reads_must_move_too(redis_url: str, clock: Clock) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        await clock.sent(
            writer, HEAD.replace(b"image/png", b"text/x") + b"Content-Length: 9\r\n\r\n1"
        )
        assert b" 415 " in await reader.readline()
        await clock.passes(STALL_S - 1)
        await clock.sent(writer, b"2")
        await clock.passes(STALL_S - 1)
        assert one.server.server_state.connections
        await clock.passes(1)
        assert not one.server.server_state.connections


async def test_an_idle_connection_is_kept_for_so_long(redis_url: str, clock: Clock) -> None:
    async with serving(redis_url, **limits()) as one, one.connection() as (reader, writer):
        for _ in range(3):
            await clock.sent(writer, GET)
            await reader.readuntil(b"ok\n")
            await clock.passes(KEEP_ALIVE_S - 1)
        assert one.server.server_state.connections
        await clock.passes(1)
        assert await reader.read() == b""


class Reader:
    """A client that asked for more than sockets hold, and has read nothing of it."""

    def __init__(self, client: socket.socket, connection: Protocol) -> None:
        self._client, self._connection = client, connection

    @classmethod
    @asynccontextmanager
    async def of(cls, one: Serving, clock: Clock) -> AsyncIterator[Reader]:
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200
        loop = asyncio.get_running_loop()
        assert (await one.front.client.get("/openapi.json")).status_code == 200
        await one.front.client.aclose()
        client = socket.socket()
        client.setblocking(False)
        with client:
            await loop.sock_connect(client, ("127.0.0.1", one.port))
            await loop.sock_sendall(client, asked)
            await clock.connected(one, 1)
            (connection,) = one.server.server_state.connections
            yield cls(client, cast("Protocol", connection))

    async def left(self) -> tuple[int, int]:
        """Bytes that wait in the process, and in the kernel as well, once the sockets hold no
        more."""
        last, now = (-1, -1), (0, 0)
        while not self._connection.flow.write_paused or now != last:
            await asyncio.sleep(0.05)
            waiting = self._connection.transport.get_write_buffer_size()
            sent = self._connection.transport.get_extra_info("socket").fileno()
            held = struct.unpack("i", fcntl.ioctl(sent, termios.TIOCOUTQ, bytes(4)))[0]
            last, now = now, (waiting, waiting + held)
        return now

    async def takes(self, most: int) -> None:
        await asyncio.get_running_loop().sock_recv(self._client, most)


async def test_who_takes_nothing_of_the_answer_is_cut_off(redis_url: str, clock: Clock) -> None:
    async with serving(redis_url, **limits()) as one, Reader.of(one, clock) as reader:
        for _ in range(4):
            before, _ = await reader.left()
            while (await reader.left())[0] == before:
                for _ in range(16):
                    await reader.takes(1 << 18)
            await clock.passes(STALL_S)  # some of it was taken since the last look
            assert one.server.server_state.connections
        await clock.passes(STALL_S)
        await clock.passes(STALL_S)
        assert not one.server.server_state.connections


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel as Linux has it")
async def test_who_takes_it_slowly_is_not_cut_off(redis_url: str, clock: Clock) -> None:
    """The kernel holds megabytes, and takes more from us only when a third of them is gone."""
    async with serving(redis_url, **limits()) as one, Reader.of(one, clock) as reader:
        before, _ = await reader.left()
        while (await reader.left())[0] == before:
            for _ in range(16):
                await reader.takes(1 << 18)
        await clock.passes(STALL_S)  # it looks, and will look again
        still, now = waiting, in_all = await reader.left()
        while now == in_all:
            await reader.takes(1 << 16)
            still, now = await reader.left()
        assert still == waiting  # so it is the kernel's that was taken
        await clock.passes(STALL_S)
        assert one.server.server_state.connections
        await clock.passes(STALL_S)
        assert not one.server.server_state.connections


async def test_one_connection_too_many(redis_url: str, clock: Clock) -> None:
    async with (
        serving(redis_url, **limits(max_connections=2)) as one,
        one.connection() as (reader, writer),
        one.connection() as (theirs, other),
    ):
        await clock.sent(writer, GET)
        await reader.readuntil(b"ok\n")
        await clock.sent(other, GET)
        async with one.connection() as (refused, late):
            late.write(GET.replace(b"livez", b"v1/models"))
            answer = await refused.read()
            document = the_problem(answer, 503, "too_many_connections")
            assert (document["limit"], document["retry_after_s"]) == (2, 1)
            assert f"x-request-id: {document['request_id']}".encode() in answer  # as the log has it
        async with one.connection() as (probed, probe):  # a busy process is not to be killed
            await clock.sent(probe, GET)
            assert b" 200 " in await probed.readline()
        async with one.connection() as (unwanted, _):  # nor do they pile up
            await clock.connected(one, 3)
            await clock.passes(UNWANTED_S)
            assert await unwanted.read() == b""
        await clock.sent(writer, GET.replace(b"livez", b"v1/models"))
        assert b" 200 " in await reader.readline()  # whoever was there first stays
        await clock.sent(other, GET.replace(b"livez", b"metrics"))
        page = await theirs.readuntil(b"camserve_redis_up")
        assert b'camserve_problems_total{code="too_many_connections"} 1.0' in page


async def test_what_is_no_http_gets_a_problem(redis_url: str) -> None:
    async with serving(redis_url) as one, one.connection() as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")  # TLS, as a wrong scheme sends it
        the_problem(await reader.read(), 400, "malformed_request")
