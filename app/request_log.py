"""One line for each request, when it is over."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import Any, Final

from starlette._utils import get_route_path  # the very path that the router goes by
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from camserve.errors import CamserveError, shortened
from camserve.logs import get_logger

__all__ = ["METHODS", "RequestLog", "RouteNames", "is_probe", "note_error", "note_job", "route_of"]

logger = get_logger(__name__)

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What a method may be called where each name costs something: others are made up."""
_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_ROUTE: Final = "route"
# not the structlog context: what a task of the request binds there, the request never sees
_noted: ContextVar[dict[str, Any]] = ContextVar("noted")


def is_probe(path: str) -> bool:
    """Whether it is asked for every few seconds by what watches the service."""
    return path in _PROBES


def note_job(job_id: str) -> None:
    """The job that answers the current request: its lines say so from now on."""
    bind_contextvars(job_id=job_id)
    _note(job_id=job_id)


def note_error(error: CamserveError) -> None:
    """What the current request is refused with."""
    _note(code=error.error_code.value)
    if error_id := error.extensions.get("error_id"):
        _note(error_id=error_id)


def _note(**fields: Any) -> None:
    if (noted := _noted.get(None)) is not None:
        noted.update(fields)


def route_of(scope: Scope) -> str | None:
    """The template of the path that the request was routed by; None if it was not."""
    route: str | None = scope["state"].get(_ROUTE)
    return route


class RequestLog:
    """ASGI middleware: says of each request how it ended. Never with its query, which may hold a
    signature, and of probes only to those who debug."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        answered: dict[str, Any] = {}
        noted: dict[str, Any] = {}
        token = _noted.set(noted)

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            _noted.reset(token)
            fields = _fields(scope) | answered | noted
            fields["duration_ms"] = round((time.perf_counter() - began_s) * 1000, 1)
            logger.log(_level(scope, answered.get("status")), "request", **fields)


class RouteNames:
    """ASGI middleware right around the router: others see copies of what it finds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if route := scope.get("route"):
                scope["state"][_ROUTE] = route.path


def _fields(scope: Scope) -> dict[str, Any]:
    state = scope["state"]
    fields = {
        "method": shortened(scope["method"]),
        "path": shortened(scope["path"]),
        "route": state.get(_ROUTE),
        "caller": caller.name if (caller := state.get("caller")) else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _level(scope: Scope, status: int | None) -> int:
    if is_probe(get_route_path(scope)):
        return logging.DEBUG
    return logging.WARNING if status is None or status >= 500 else logging.INFO
