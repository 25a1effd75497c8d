"""Each caller has so many calls a minute that make work, and is told how many are left."""

from __future__ import annotations

import math

from fastapi import Request
from starlette._utils import get_route_path  # the very path that the router goes by
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import makes_work
from app.problems import problem_response
from app.state import AppState
from camserve.api_keys import ApiKey
from camserve.broker import Quota
from camserve.errors import QueueUnavailable, RateLimited

__all__ = ["RateLimits"]


class RateLimits:
    """ASGI middleware inside of the guard, which has found out who calls.

    Counts before the body is read: to decode what is refused later costs, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = scope["type"] == "http"
        limit = (
            _limit(scope) if http and makes_work(scope["method"], get_route_path(scope)) else None
        )
        if limit is None:
            await self._app(scope, receive, send)
            return
        state: AppState = scope["state"]["parts"]
        caller: ApiKey | None = scope["state"]["caller"]
        try:
            quota = await state.rate_limiter.take(caller.name if caller else "", limit)
        except QueueUnavailable as error:  # there would be no queue either
            await problem_response(error, Request(scope))(scope, receive, send)
            return
        headers = _headers(limit, quota)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if quota.granted:
            await self._app(scope, receive, send_counted)
        else:
            refusal = problem_response(RateLimited(limit, quota.wait_s), Request(scope))
            await refusal(scope, receive, send_counted)


def _limit(scope: Scope) -> int | None:
    """Calls a minute of this caller; None for as many as it likes."""
    caller: ApiKey | None = scope["state"]["caller"]
    own = caller.rate_limit_per_minute if caller else None
    settings = scope["state"]["parts"].settings
    return settings.rate_limit_per_minute if own is None else own


def _headers(limit: int, quota: Quota) -> dict[str, str]:
    """Of draft-ietf-httpapi-ratelimit-headers-11; `t` is when there will be one more."""
    return {
        "RateLimit-Policy": f'"default";q={limit};w=60',
        "RateLimit": f'"default";r={quota.left};t={math.ceil(quota.wait_s)}',
    }
