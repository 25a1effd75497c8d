"""Fetches: redirects by the same rules, and limits of bytes, time and number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.outbound.allow_list import AllowList
from app.outbound.connections import CheckedConnections
from app.outbound.fetching import MAX_REDIRECTS, Fetcher, Room
from app.outbound.urls import parse_url
from camserve.errors import UrlNotAllowed, UrlUnreachable
from camserve.settings import Settings
from tests.app.outbound.web_server import WebServer, answer, redirect, web_server

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def fetcher(*entries: str, **settings: Any) -> AsyncIterator[Fetcher]:
    allowed = AllowList.parse("CAMSERVE_FETCH_HOSTS", entries)
    async with CheckedConnections(allowed, 16) as connections:
        yield Fetcher(connections, Settings(redis_url="redis://unused", **settings))


async def get(web: WebServer, path: str, limit: int = 1000, **settings: Any) -> bytes:
    async with fetcher(web.entry, **settings) as made:
        return await made.fetch(parse_url(web.url(path)), Room(limit))


async def failure(web: WebServer, path: str, **options: Any) -> UrlUnreachable:
    with pytest.raises(UrlUnreachable) as caught:
        await get(web, path, **options)
    return caught.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(web: WebServer, status: int) -> None:
    web.pages |= {"/": redirect("sub/x?y", status), "/sub/x?y": answer(b"content")}
    assert await get(web, "/") == b"content"
    assert [asked.line for asked in web.asked] == ["GET / HTTP/1.1", "GET /sub/x?y HTTP/1.1"]


async def test_as_many_redirects_as_allowed_and_no_more(web: WebServer) -> None:
    web.pages |= {f"/{n}": redirect(f"/{n - 1}") for n in range(1, 10)} | {"/0": answer(b"end")}
    assert await get(web, f"/{MAX_REDIRECTS}") == b"end"
    assert (await failure(web, f"/{MAX_REDIRECTS + 1}")).reason == "redirects"
    web.pages["/loop"] = redirect("/loop")
    assert (await failure(web, "/loop")).reason == "redirects"


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("http://other.test/", "host"),
        ("http://169.254.169.254/latest/meta-data/", "host"),
        ("http://[::ffff:127.0.0.1]:{port}/secret", "host"),
        ("https://127.0.0.1:{port}/secret", "scheme"),
        ("http://127.0.0.1:1/secret", "port"),
    ],
)
async def test_a_redirect_passes_the_same_gates(web: WebServer, location: str, rule: str) -> None:
    target = location.format(port=web.port)
    web.pages |= {"/": redirect(target), "/secret": answer(b"secret")}
    with pytest.raises(UrlNotAllowed) as caught:
        await get(web, "/")
    assert caught.value.rule == rule
    assert "redirects" in str(caught.value)
    assert "169" not in str(caught.value)
    assert [asked.line for asked in web.asked] == ["GET / HTTP/1.1"]


async def test_a_redirect_from_an_allowed_host_to_an_address_inside(web: WebServer) -> None:
    """Any public host is allowed, and one network; loopback besides it is neither."""
    async with web_server() as inside, fetcher("http://*", web.entry) as made:
        inside.pages["/"] = answer(b"secret")
        web.pages["/"] = redirect(inside.url("/").replace(f":{inside.port}", ""))
        with pytest.raises(UrlNotAllowed) as caught:
            await made.fetch(parse_url(web.url("/")), Room(100))
        assert caught.value.rule == "address"
        assert inside.connections == 0


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://a@b/", "http://0x7f.1/", "//["])
async def test_a_redirect_to_no_url(web: WebServer, location: str) -> None:
    web.pages["/"] = redirect(location)
    assert (await failure(web, "/")).reason == "redirects"


async def test_what_one_answer_sets_the_next_request_does_not_send(web: WebServer) -> None:
    web.pages["/"] = answer(
        b"", 302, location="/x", set_cookie="a=b; Path=/", www_authenticate="Basic"
    )
    web.pages["/x"] = answer(b"content")
    assert await get(web, "/") == b"content"
    assert set(web.asked[1].headers) == {"host", "user-agent", "accept-encoding", "accept"}


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 404, 500, 503])
async def test_other_statuses_hold_no_picture(web: WebServer, status: int) -> None:
    web.pages["/"] = answer(b"" if status in (204, 304) else b"internal words", status)
    error = await failure(web, "/")
    assert (error.reason, error.extensions["answered"]) == ("status", status)
    assert "internal" not in str(error)


def chunked(body: bytes, size: int = 7) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize("form", [answer, chunked])
async def test_the_edge_of_what_is_too_large(web: WebServer, form: Any) -> None:
    web.pages |= {"/fits": form(b"x" * 100), "/not": form(b"x" * 101)}
    assert await get(web, "/fits", limit=100) == b"x" * 100
    error = await failure(web, "/not", limit=100)
    assert (error.reason, error.extensions["limit"]) == ("too_large", 100)


async def test_urls_of_one_request_share_its_room(web: WebServer) -> None:
    web.pages["/"] = answer(b"x" * 60)
    async with fetcher(web.entry) as made:
        room = Room(119)
        await made.fetch(parse_url(web.url("/")), room)
        with pytest.raises(UrlUnreachable, match="more than"):
            await made.fetch(parse_url(web.url("/")), room)


async def test_a_body_that_never_ends_is_read_to_the_limit(web: WebServer) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    web.pages["/"] = endless
    assert (await failure(web, "/", limit=1_000_000)).reason == "too_large"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "forever"),
    [
        (b"", b"HTTP/1.1 102 So\r\n\r\n"),
        (b"", b"HTTP/1.1 103 So\r\n" + b"Link: a\r\n" * 100 + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED, b"10;" + b"a" * 100 + b"\r\n" + b"x" * 16 + b"\r\n"),
        (CHUNKED + b"10000\r\n" + b"x" * 65536 + b"\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    ],
)
async def test_an_answer_that_is_mostly_frame_is_broken_off(
    web: WebServer, begin: bytes, forever: bytes
) -> None:
    """To take it apart would keep the event loop from everybody else until the time is over."""

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(forever * 1000)
            await writer.drain()

    web.pages["/"] = flood
    found = await failure(web, "/", limit=20_000_000, fetch_timeout_s=60)
    assert found.reason == "broken"


async def test_small_chunks_and_a_large_head_are_nothing_strange(web: WebServer) -> None:
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\n" + b"X-Policy: none\r\n" * 900 + b"\r\n")
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
    web.pages["/"] = head + chunk * 10_000 + b"0\r\n\r\n"
    async with fetcher(web.entry) as made:
        for _ in range(2):  # over one connection
            assert len(await made.fetch(parse_url(web.url("/")), Room(10**7))) == 1_000_000
    assert web.connections == 1


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP", "zstd"])
async def test_compressed_answers_are_refused(web: WebServer, encoding: str) -> None:
    web.pages["/"] = answer(b"\x1f\x8b", content_encoding=encoding)
    assert (await failure(web, "/")).reason == "encoded"


async def test_identity_is_no_compression(web: WebServer) -> None:
    web.pages["/"] = answer(b"x", content_encoding="identity")
    assert await get(web, "/") == b"x"


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then: no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def early_hints(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("page", [drip, silence, early_hints])
async def test_the_whole_fetch_has_a_time(web: WebServer, page: Any) -> None:
    web.pages["/"] = page
    assert (await failure(web, "/", fetch_timeout_s=0.1)).reason == "timeout"


async def test_redirects_share_the_time(web: WebServer) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.06)
        writer.write(redirect("/"))
        await writer.drain()

    web.pages["/"] = slow
    assert (await failure(web, "/", fetch_timeout_s=0.1)).reason == "timeout"


async def test_as_many_at_once_as_set(web: WebServer) -> None:
    present, most = 0, 0
    full, leave = asyncio.Event(), asyncio.Event()

    async def counted(writer: asyncio.StreamWriter) -> None:
        nonlocal present, most
        present += 1
        most = max(most, present)
        if present == 3:
            full.set()
        await leave.wait()
        present -= 1
        writer.write(answer(b"x"))
        await writer.drain()

    web.pages["/"] = counted
    async with fetcher(web.entry, fetch_connections=3) as made:
        room = Room(100)
        tasks = [asyncio.create_task(made.fetch(parse_url(web.url("/")), room)) for _ in range(10)]
        await full.wait()
        leave.set()
        assert await asyncio.gather(*tasks) == [b"x"] * 10
    assert most == 3


async def test_a_caller_who_leaves_takes_his_turn_along(web: WebServer) -> None:
    begun = asyncio.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        begun.set()
        await asyncio.sleep(30)

    web.pages |= {"/silent": silent, "/": answer(b"x")}
    async with fetcher(web.entry, fetch_connections=1) as made:
        task = asyncio.create_task(made.fetch(parse_url(web.url("/silent")), Room(9)))
        await begun.wait()
        task.cancel()
        assert await made.fetch(parse_url(web.url("/")), Room(9)) == b"x"
        with pytest.raises(asyncio.CancelledError):
            await task
