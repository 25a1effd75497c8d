"""HEAD wherever there is GET: load balancers, caches and `curl -I` ask so (RFC 9110, 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HeadRequests", "is_head"]

_MARK = "camserve.head"


def is_head(scope: Scope) -> bool:
    """Whether this GET was HEAD: for an answer without end, of which the headers will do."""
    return bool(scope.get(_MARK))


class HeadRequests:
    """ASGI middleware: answers HEAD with the status and headers of GET, and no content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_content(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # a copy: the server must still know that it was HEAD
        await self._app({**scope, "method": "GET", _MARK: True}, receive, send_without_content)
