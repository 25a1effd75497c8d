"""A body that stands still is given up; one that moves, however slowly, is not."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.stopping import Stopping
from camserve.errors import RequestTimeout

__all__ = ["StalledBodies"]


class StalledBodies:
    """ASGI middleware: whoever reads a body of which nothing comes for `stall_s` is told so.

    Only the time in which somebody waits for it counts. Raises RequestTimeout, or ShuttingDown when
    the front end can wait no longer, out of `receive`: the route's errors become problems.
    """

    def __init__(self, app: ASGIApp, stall_s: float, stopping: Stopping) -> None:
        self._app = app
        self._stall_s = stall_s
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_whole = False

        async def receive_moving() -> Message:
            nonlocal is_whole
            if is_whole:  # what comes now is that the client leaves, whenever it does
                return await receive()
            try:
                async with self._stopping.within(self._stall_s):
                    message = await receive()
            except TimeoutError as error:
                raise RequestTimeout(self._stall_s) from error
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, receive_moving, send)
