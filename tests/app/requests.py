"""Requests as the reading code gets them, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import httpx
from starlette.requests import Request
from starlette.types import Message

from app.documents import Upload
from app.uploads import read_request
from camserve.contracts.requests import ExplanationRequest
from camserve.settings import Settings

__all__ = ["CountedBody", "read", "read_stream", "wire"]

SETTINGS = Settings(redis_url="redis://unused")


class CountedBody:
    """A body of 64 MB that tells how much of it was asked for."""

    def __init__(self) -> None:
        self.read = 0  # pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(1000):
            self.read += 1
            yield b"x" * 65536

    @property
    def is_unread(self) -> bool:
        """httpx hands over the first piece before it is asked."""
        return self.read <= 1


def wire(**options: object) -> tuple[dict[str, str], bytes, str]:
    """Headers, body and query string of what httpx would send."""
    request = httpx.Request("POST", "http://front/v1/explanations", **options)  # type: ignore[arg-type]
    request.read()
    return dict(request.headers), request.content, request.url.query.decode()


async def read(**options: object) -> tuple[ExplanationRequest, list[Upload]]:
    """What the service makes of a request with httpx's `options`."""
    headers, body, query = wire(**options)
    return await read_stream(headers, [body], query)


async def read_stream(
    headers: dict[str, str],
    chunks: Iterable[bytes],
    query: str = "",
    settings: Settings = SETTINGS,
) -> tuple[ExplanationRequest, list[Upload]]:
    pending = iter(chunks)

    async def receive() -> Message:
        chunk = next(pending, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/explanations",
        "query_string": query.encode(),
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
    }
    arrival = await read_request(Request(scope, receive), settings, ExplanationRequest)
    return arrival.asked, arrival.uploads
