"""Connections to others: a name is resolved once, and what was checked is what is connected to.

A name that turns to another address between the check and the connection (DNS rebinding) gains
nothing, since nobody asks for it a second time. TLS asks for the certificate of the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from types import TracebackType
from typing import Final, Self

import httpcore2 as httpcore
from httpcore2 import SOCKET_OPTION

from app.outbound.allow_list import AllowList
from app.outbound.metering import MeteredStream
from app.outbound.urls import Address, HttpUrl
from camserve import __version__
from camserve.errors import UrlUnreachable

__all__ = ["CheckedConnections", "Resolve", "resolve"]

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host, best first; blocks. Raises OSError."""

_NAME_THREADS: Final = 8
_KEEP_ALIVE_S: Final = 5.0
_CONNECT_S: Final = 5.0  # to one address of a host, and again for TLS
# what we say of ourselves; no cookies, no credentials, no referrer
_HEADERS: Final = {"User-Agent": f"camserve/{__version__}", "Accept-Encoding": "identity"}


def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """The only way to a socket: every address of a host passes the list, or none is tried."""

    def __init__(self, allowed: AllowList, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()
        # of its own: a name server that is silent must hold up names alone
        self._threads = ThreadPoolExecutor(_NAME_THREADS, "names")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        last: Exception = httpcore.ConnectError()
        for address in await self._checked(host, port):
            try:
                return MeteredStream(
                    await self._network.connect_tcp(
                        str(address), port, timeout, local_address, socket_options
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def _checked(self, host: str, port: int) -> list[Address]:
        """Raises UrlNotAllowed, or UrlUnreachable for a name that nobody knows."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._resolve, host, port)
        except (OSError, UnicodeError) as error:
            raise UrlUnreachable("name", f"no address is known of {host}") from error
        addresses = [ip_address(one) for one in found]
        for address in addresses:
            self._allowed.check_address(address, port)
        return addresses

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedConnections:
    """Requests to URLs that an allow-list names. No proxies, no cookies, no redirects, HTTP/1.1."""

    def __init__(
        self,
        allowed: AllowList,
        most: int,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """most: connections at once; more requests wait their turn. tls: by default one with the
        system's authorities, or those that SSL_CERT_FILE names."""
        self.allowed = allowed
        self._network = _CheckedNetwork(allowed, resolve)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or (httpcore.default_ssl_context() if allowed else None),
            max_connections=most,
            keepalive_expiry=_KEEP_ALIVE_S,
            network_backend=self._network,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pool.aclose()
        self._network.close()

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: HttpUrl,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """The answer, whose body is still to be read (`content_of`). Time is the caller's to limit.

        Raises UrlNotAllowed or UrlUnreachable, also while its body is read.
        """
        self.allowed.check_url(url)
        # taken apart already: no other parser gets to read it in its own way
        parts = httpcore.URL(
            scheme=url.scheme.encode(),
            host=url.host.encode(),
            port=url.port,
            target=url.target.encode(),
        )
        fields = {"Host": url.authority, **_HEADERS, **(headers or {})}
        with _failures_named(url):
            async with self._pool.stream(
                method,
                parts,
                headers=list(fields.items()),
                content=content,
                extensions={"timeout": {"connect": _CONNECT_S}},
            ) as answer:
                yield answer


@contextlib.contextmanager
def _failures_named(url: HttpUrl) -> Iterator[None]:
    """What goes wrong on the way, as UrlUnreachable with a class of reasons and no more."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise UrlUnreachable("timeout", f"{url.host} did not answer in time") from error
    except httpcore.ConnectError as error:
        if _is_of_tls(error):
            raise UrlUnreachable(
                "tls", f"{url.host} has no certificate that is trusted here"
            ) from error
        raise UrlUnreachable("refused", f"{url.host} refused the connection") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise UrlUnreachable(
            "broken", f"{url.host} broke the connection off, or speaks no HTTP"
        ) from error


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether a connection failed by its encryption. The pool drops the cause, not the context."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None
