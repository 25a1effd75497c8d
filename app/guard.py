"""Nobody gets past without the right key, before a byte of the body is read."""

from __future__ import annotations

from fastapi import Request
from starlette._utils import get_route_path  # the very path that the router goes by
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import required_scope
from app.credentials import presented_key
from app.problems import problem_response
from camserve.api_keys import ApiKey
from camserve.errors import ApiKeyUnknown, CamserveError, ScopeMissing
from camserve.key_file import KeyFile

__all__ = ["Guard", "caller_name"]


def caller_name(request: Request) -> str:
    """Of the API key that the request came with; empty where no keys are configured."""
    caller: ApiKey | None = request.state.caller
    return caller.name if caller else ""


class Guard:
    """ASGI middleware around all routes, so that none can be forgotten.

    Puts the caller's `ApiKey` into the request's state as `caller`; None where no keys are
    configured, or the call is open.
    """

    def __init__(self, app: ASGIApp, keys: KeyFile | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = self._caller(scope)
        except CamserveError as error:
            await problem_response(error, Request(scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> ApiKey | None:
        needed = required_scope(scope["method"], get_route_path(scope))
        if self._keys is None or needed is None:
            return None
        caller = self._keys.ring.find(presented_key(scope["headers"]))
        if caller is None:
            raise ApiKeyUnknown("the API key is not known here: it was mistyped, or removed")
        if not caller.may(needed):
            raise ScopeMissing(caller.name, needed)
        return caller
