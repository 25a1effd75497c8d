"""Calls of a connection that is one too many are refused, and counted and logged as any other."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.problems import problem_response
from app.request_log import is_probe
from camserve.errors import TooManyConnections

__all__ = ["SurplusConnections", "as_surplus"]

_MARK = "camserve.connections"


def as_surplus(app: ASGIApp, limit: int) -> ASGIApp:
    """The application of a connection beyond so many."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, _MARK: limit}, receive, send)

    return marked


class SurplusConnections:
    """ASGI middleware around the guard: to look for a key is work, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = scope.get(_MARK)
        # a process that is busy is not to be killed for it
        if scope["type"] != "http" or limit is None or is_probe(scope["path"]):
            await self._app(scope, receive, send)
        else:
            refusal = problem_response(TooManyConnections(limit), Request(scope))
            await refusal(scope, receive, send)
