"""What nobody expected is a problem with an id to look up in the log, never a traceback."""

from __future__ import annotations

import secrets

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem_response
from camserve.errors import ErrorCode, Failure, shortened
from camserve.logs import get_logger

__all__ = ["UnexpectedErrors"]

logger = get_logger(__name__)


class UnexpectedErrors:
    """ASGI middleware around the guard and all routes: what is around it in turn (request ids,
    CORS) goes on as ever, which a handler of `Exception` would be outside of. An answer that has
    begun can only be cut off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            error_id = secrets.token_hex(6)
            logger.error(  # noqa: TRY400 - the error itself is given
                "unexpected error",
                error_id=error_id,
                path=shortened(scope["path"]),
                exc_info=error,
            )
            if begun:
                raise
            failure = Failure(
                ErrorCode.INTERNAL, f"look for {error_id} in the log of the API", error_id=error_id
            )
            await problem_response(failure, Request(scope))(scope, receive, send)
