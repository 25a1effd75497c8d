"""Inputs that are named by a URL: fetched whole, within limits, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import httpcore2 as httpcore
from opentelemetry.trace import SpanKind

from app.outbound.connections import CheckedConnections
from app.outbound.metering import content_of
from app.outbound.urls import HttpUrl, MalformedUrl
from camserve.errors import UrlNotAllowed, UrlUnreachable
from camserve.settings import Settings
from camserve.tracing import stage

__all__ = ["MAX_REDIRECTS", "Fetcher", "Room"]

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass
class Room:
    """Bytes that the URLs of one request may still hold, all together."""

    limit: int
    taken: int = 0

    def take(self, count: int) -> None:
        """Raises UrlUnreachable when it is used up."""
        if self.taken + count > self.limit:
            raise UrlUnreachable(
                "too_large",
                f"the URLs of the request hold more than {self.limit / 1_000_000:g} MB: name "
                "smaller pictures",
                limit=self.limit,
            )
        self.taken += count


class Fetcher:
    """Fetches what requests name by URL, a few at once for all requests together."""

    def __init__(self, connections: CheckedConnections, settings: Settings) -> None:
        self._connections = connections
        self._timeout_s = settings.fetch_timeout_s
        self._turns = asyncio.Semaphore(settings.fetch_connections)

    def check(self, url: HttpUrl) -> None:
        """Raises UrlNotAllowed for a URL that need not be tried."""
        self._connections.allowed.check_url(url)

    async def fetch(self, url: HttpUrl, room: Room) -> bytes:
        """What is at the URL. Raises UrlNotAllowed or UrlUnreachable."""
        # without a traceparent: a host that a caller named need not know of our traces
        with stage("fetch input", {"server.address": url.host}, kind=SpanKind.CLIENT):
            return await self._fetch(url, room)

    async def _fetch(self, url: HttpUrl, room: Room) -> bytes:
        async with self._turns:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._followed(url, room)
            except TimeoutError as error:
                raise UrlUnreachable(
                    "timeout", f"{url.host} did not send all of it in {self._timeout_s:g} s"
                ) from error

    async def _followed(self, url: HttpUrl, room: Room) -> bytes:
        for hop in range(MAX_REDIRECTS + 1):
            try:
                found = await self._asked(url, room)
            except UrlNotAllowed as error:
                if hop == 0:
                    raise
                # without the host: where a server sends its visitors is not for everybody
                raise UrlNotAllowed(
                    error.rule, f"it redirects to where nothing may be fetched, by its {error.rule}"
                ) from error
            if isinstance(found, bytes):
                return found
            url = found
        raise UrlUnreachable("redirects", f"more than {MAX_REDIRECTS} redirects")

    async def _asked(self, url: HttpUrl, room: Room) -> bytes | HttpUrl:
        """The content, or where the answer says that it is."""
        async with self._connections.request("GET", url, headers={"Accept": "*/*"}) as answer:
            headers = _headers(answer)
            if answer.status in _REDIRECTS and "location" in headers:
                try:
                    return url.joined(headers["location"])
                except MalformedUrl as error:
                    raise UrlUnreachable("redirects", f"a redirect that {error}") from error
            if answer.status != 200:
                raise UrlUnreachable(
                    "status", f"{url.host} answered {answer.status}", answered=answer.status
                )
            if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
                raise UrlUnreachable(
                    "encoded", f"{url.host} sent it compressed, though it was asked not to"
                )
            return await _body(answer, headers.get("content-length", ""), room)


async def _body(answer: httpcore.Response, announced: str, room: Room) -> bytes:
    if announced.isdecimal() and int(announced) > room.limit - room.taken:
        room.take(int(announced))  # refused before it is read
    parts = []
    async for part in content_of(answer):
        room.take(len(part))
        parts.append(part)
    return b"".join(parts)


def _headers(answer: httpcore.Response) -> dict[str, str]:
    """By their names in lower case; of one that is repeated, its values separated by commas."""
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        key, text = name.decode().lower(), value.decode(errors="replace")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
