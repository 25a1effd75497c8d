"""Connections go to the addresses that were checked, whatever a name server says next."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
import trustme

from app.outbound.allow_list import AllowList
from app.outbound.connections import CheckedConnections, Resolve, resolve
from app.outbound.urls import parse_url
from camserve.errors import UrlNotAllowed, UrlUnreachable
from tests.app.outbound.web_server import WebServer, answer, web_server
from tests.service import free_port

pytestmark = pytest.mark.anyio
HOST = "pictures.test"


class NameServer:
    """Gives the next answer to each question, and the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def connections(
    *entries: str, resolve: Resolve = resolve, tls: ssl.SSLContext | None = None
) -> AsyncIterator[CheckedConnections]:
    allowed = AllowList.parse("CAMSERVE_FETCH_HOSTS", entries)
    async with CheckedConnections(allowed, 4, resolve=resolve, tls=tls) as made:
        yield made


async def get(made: CheckedConnections, url: str) -> bytes:
    async with made.request("GET", parse_url(url)) as found:
        return b"".join([part async for part in found.aiter_stream()])


def reaching(web: WebServer) -> tuple[str, ...]:
    """A list that lets the name resolve to loopback."""
    return (f"http://{HOST}:{web.port}", f"http://127.0.0.1:{web.port}")


async def test_a_name_is_asked_for_by_its_name_at_its_address(web: WebServer) -> None:
    web.pages["/x?y"] = answer(b"content")
    names = NameServer(["127.0.0.1"])
    async with connections(*reaching(web), resolve=names) as made:
        assert await get(made, web.url("/x?y", HOST)) == b"content"
    assert names.asked == [(HOST, web.port)]
    (asked,) = web.asked
    assert asked.headers["host"] == f"{HOST}:{web.port}"
    assert asked.headers["accept-encoding"] == "identity"
    assert set(asked.headers) == {"host", "user-agent", "accept-encoding"}


async def test_an_ipv6_address_has_its_brackets_in_the_host_header(web: WebServer) -> None:
    web.pages["/"] = answer(b"x")
    entries = (f"http://[::1]:{web.port}", f"127.0.0.1:{web.port}")
    async with connections(*entries, resolve=NameServer(["127.0.0.1"])) as made:
        assert await get(made, web.url("/", "[::1]")) == b"x"
    assert web.asked[0].headers["host"] == f"[::1]:{web.port}"


async def test_a_name_that_resolves_inside_is_not_connected_to(web: WebServer) -> None:
    async with connections(f"http://{HOST}:{web.port}", resolve=NameServer(["127.0.0.1"])) as made:
        with pytest.raises(UrlNotAllowed) as caught:
            await get(made, web.url("/", HOST))
    assert caught.value.rule == "address"
    assert "127" not in str(caught.value)
    assert web.connections == 0


@pytest.mark.parametrize("answers", [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"]])
async def test_one_address_inside_is_one_too_many(web: WebServer, answers: list[str]) -> None:
    """Loopback is allowed here; the other address is not, wherever it stands."""
    async with connections(*reaching(web), resolve=NameServer(answers)) as made:
        with pytest.raises(UrlNotAllowed):
            await get(made, web.url("/", HOST))
    assert web.connections == 0


async def test_rebinding_between_check_and_connection(web: WebServer) -> None:
    """The second answer leads to a server that would answer; it is never asked for."""
    web.pages["/"] = answer(b"secret", connection="close")
    names = NameServer(["10.255.255.1"], ["127.0.0.1"])
    async with connections(f"http://{HOST}:{web.port}", resolve=names) as made:
        with pytest.raises(UrlNotAllowed):
            await get(made, web.url("/", HOST))
    assert len(names.asked) == 1
    names = NameServer(["127.0.0.1"], ["10.255.255.1"])
    async with connections(*reaching(web), resolve=names) as made:
        assert await get(made, web.url("/", HOST)) == b"secret"
        assert len(names.asked) == 1
        with pytest.raises(UrlNotAllowed):  # a new connection is checked anew
            await get(made, web.url("/", HOST))


async def test_a_connection_that_is_kept_was_checked(web: WebServer) -> None:
    web.pages["/"] = answer(b"x")
    names = NameServer(["127.0.0.1"], ["10.0.0.1"])
    async with connections(*reaching(web), resolve=names) as made:
        for _ in range(3):
            assert await get(made, web.url("/", HOST)) == b"x"
    assert (web.connections, len(names.asked)) == (1, 1)


async def test_the_next_address_is_tried_when_one_refuses(web: WebServer) -> None:
    web.pages["/"] = answer(b"x")
    entries = (*reaching(web), f"127.0.0.9:{web.port}")
    async with connections(*entries, resolve=NameServer(["127.0.0.9", "127.0.0.1"])) as made:
        assert await get(made, web.url("/", HOST)) == b"x"


async def test_the_list_is_asked_before_the_name_server(web: WebServer) -> None:
    names = NameServer(["127.0.0.1"])
    async with connections(*reaching(web), resolve=names) as made:
        with pytest.raises(UrlNotAllowed) as caught:
            await get(made, web.url("/", "other.test"))
    assert caught.value.rule == "host"
    assert names.asked == []


async def test_localhost_is_a_name_like_any_other(web: WebServer) -> None:
    """With the system's own resolver."""
    async with connections(f"http://*:{web.port}") as made:
        with pytest.raises(UrlNotAllowed) as caught:
            await get(made, web.url("/", "localhost"))
    assert caught.value.rule == "address"
    assert web.connections == 0


async def test_names_without_an_address() -> None:
    async with connections("no-such-host.invalid") as made:
        with pytest.raises(UrlUnreachable, match=r"no-such-host\.invalid") as caught:
            await get(made, "https://no-such-host.invalid/")
    assert caught.value.reason == "name"


async def test_a_silent_name_server_holds_up_nobody_else(web: WebServer) -> None:
    """Its questions have threads of their own, and end with whoever asked."""
    silence = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    def silent(host: str, port: int) -> list[str]:
        silence.wait(30)
        return ["127.0.0.1"]

    async with connections(*reaching(web), resolve=silent) as made:
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await get(made, web.url("/", HOST))
            async with asyncio.timeout(20):
                assert await asyncio.to_thread(lambda: "here") == "here"
        finally:
            silence.set()


async def test_refused() -> None:
    port = free_port()
    async with connections(f"http://127.0.0.1:{port}") as made:
        with pytest.raises(UrlUnreachable) as caught:
            await get(made, f"http://127.0.0.1:{port}/")
    assert caught.value.reason == "refused"


@pytest.mark.parametrize(
    "bytes_of_answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
async def test_servers_that_speak_no_http_or_not_to_the_end(
    web: WebServer, bytes_of_answer: bytes
) -> None:
    async def hang_up(writer: object) -> None:
        writer.write(bytes_of_answer)  # type: ignore[attr-defined]
        writer.close()  # type: ignore[attr-defined]

    web.pages["/"] = hang_up
    async with connections(web.entry) as made:
        with pytest.raises(UrlUnreachable) as caught:
            await get(made, web.url("/"))
    assert caught.value.reason == "broken"


async def test_proxies_of_the_environment_are_not_used(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    web.pages["/"] = answer(b"x")
    async with connections(web.entry) as made:
        assert await get(made, web.url("/")) == b"x"
    assert web.asked[0].line == "GET / HTTP/1.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def showing(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def over_tls(
    name: str, server_of: trustme.CA, client_of: trustme.CA
) -> tuple[bytes, list[str | None]]:
    """What comes from a server with a certificate of `name`, and the names it was asked for."""
    server = showing(server_of, name)
    names: list[str | None] = []
    server.sni_callback = lambda _, asked, __: names.append(asked)
    async with web_server(server) as web:
        web.pages["/"] = answer(b"content")
        entries = (f"{HOST}:{web.port}", "127.0.0.1")
        async with connections(
            *entries, resolve=NameServer(["127.0.0.1"]), tls=trusting(client_of)
        ) as made:
            return await get(made, web.url("/", HOST, "https")), names


async def test_a_certificate_is_asked_for_by_name(authority: trustme.CA) -> None:
    assert await over_tls(HOST, authority, authority) == (b"content", [HOST])


@pytest.mark.parametrize("name", ["other.test", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_none(authority: trustme.CA, name: str) -> None:
    with pytest.raises(UrlUnreachable) as caught:
        await over_tls(name, authority, authority)
    assert caught.value.reason == "tls"


async def test_a_certificate_of_an_unknown_authority_is_none(authority: trustme.CA) -> None:
    with pytest.raises(UrlUnreachable) as caught:
        await over_tls(HOST, trustme.CA(), authority)
    assert caught.value.reason == "tls"
