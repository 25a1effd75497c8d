"""One attempt: what a receiver's answer means."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from app.outbound.allow_list import AllowList
from app.outbound.connections import CheckedConnections
from app.outbound.urls import parse_url
from app.webhooks.sending import Outcome, Sender
from app.webhooks.signing import Signer
from tests.app.outbound.web_server import WebServer, answer, redirect
from tests.service import free_port

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
BODY = b'{"type":"explanation.dead"}'


async def sent(
    receiver: WebServer, page: Any = None, *, timeout_s: float = 5, url: str | None = None
) -> Outcome:
    receiver.pages["/hook?x=1"] = answer(b"") if page is None else page
    allowed = AllowList.parse("X", [receiver.entry])
    async with CheckedConnections(allowed, 4) as connections:
        sender = Sender(connections, Signer("X", [SECRET]), timeout_s)
        return await sender.send(parse_url(url or receiver.url("/hook?x=1")), "msg_1", BODY)


async def test_what_is_sent(receiver: WebServer) -> None:
    assert await sent(receiver) == Outcome(200)
    (asked,) = receiver.asked
    assert asked.line == "POST /hook?x=1 HTTP/1.1"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == BODY
    Webhook(SECRET).verify(asked.body, asked.headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_what_is_a_delivery(receiver: WebServer, status: int) -> None:
    outcome = await sent(receiver, answer(b"", status))
    assert (outcome.status, outcome.is_delivered) == (status, True)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 422, 429, 500, 503])
async def test_what_is_tried_again(receiver: WebServer, status: int) -> None:
    outcome = await sent(receiver, answer(b"its words", status))
    assert outcome == Outcome(status, f"the receiver answered {status}")


async def test_gone_is_final(receiver: WebServer) -> None:
    assert (await sent(receiver, answer(b"", 410))).is_final


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(receiver: WebServer, status: int) -> None:
    receiver.pages["/else"] = answer(b"")
    outcome = await sent(receiver, redirect("/else", status))
    assert (outcome.status, outcome.is_delivered, outcome.is_final) == (status, False, False)
    assert len(receiver.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_when_it_wants_the_next(receiver: WebServer, status: int) -> None:
    assert (await sent(receiver, answer(b"", status, retry_after="120"))).wish_s == 120


@pytest.mark.parametrize(("status", "wish"), [(500, "120"), (503, "soon"), (503, ""), (503, "١٢")])
async def test_wishes_that_are_none(receiver: WebServer, status: int, wish: str) -> None:
    page = answer(b"", status).replace(b"\r\n\r\n", f"\r\nRetry-After: {wish}\r\n\r\n".encode())
    assert (await sent(receiver, page)).wish_s is None


async def test_a_receiver_that_is_slow_or_away(receiver: WebServer) -> None:
    async def slow(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    outcome = await sent(receiver, slow, timeout_s=0.1)
    assert (outcome.status, outcome.error) == (None, "127.0.0.1 did not answer in 0.1 s")
    port = free_port()
    async with CheckedConnections(
        AllowList.parse("X", [f"http://127.0.0.1:{port}"]), 4
    ) as connections:
        sender = Sender(connections, Signer("X", [SECRET]), 5)
        away = await sender.send(parse_url(f"http://127.0.0.1:{port}/"), "msg_1", BODY)
    assert away.error == "127.0.0.1 refused the connection"
    assert not away.is_final


async def test_a_body_without_end_is_not_read(receiver: WebServer) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()

    assert (await sent(receiver, endless)).is_delivered


async def test_a_host_that_is_no_longer_allowed_is_final(receiver: WebServer) -> None:
    outcome = await sent(receiver, url="http://127.0.0.1:1/")
    assert outcome.is_final
    assert receiver.connections == 0
