"""How a front end ends: in steps, so that whoever was accepted is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camserve.errors import ShuttingDown

__all__ = ["ANSWER_S", "LIFESPAN_S", "ClosingConnections", "Stage", "Stopping"]

ANSWER_S: Final = 5.0  # for the answers of those who wait until the drain ends
LIFESPAN_S: Final = 5.0  # a Redis that hangs must not keep a process that has answered everybody


class Stage(IntEnum):
    """Each is behind the ones before it."""

    SERVING = 0
    LEAVING = 1
    """Told to stop: `/readyz` says so, and answers ask for the connection to be closed. All else
    goes on, for those whom a load balancer still sends."""
    DRAINING = 2
    """Nobody new is accepted; streams end, for they would not by themselves."""
    LATE = 3
    """Whoever still waits is answered with what there is."""


class Stopping:
    """Where the front end is on its way; it never turns back."""

    def __init__(self) -> None:
        self._stage = Stage.SERVING
        self._reached = {stage: asyncio.Event() for stage in Stage}
        self._bounded: set[asyncio.Timeout] = set()

    def enter(self, stage: Stage) -> None:
        self._stage = max(self._stage, stage)
        for one in Stage:
            if one <= stage:
                self._reached[one].set()
        if self.has_reached(Stage.LATE):
            # one that has just run out is not to be changed any more, and its task was not told yet
            for timeout in [one for one in self._bounded if not one.expired()]:
                timeout.reschedule(asyncio.get_running_loop().time())

    def has_reached(self, stage: Stage) -> bool:
        return self._stage >= stage

    async def wait_for(self, stage: Stage) -> None:
        await self._reached[stage].wait()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`; raises ShuttingDown when it becomes LATE before that."""
        try:
            async with asyncio.timeout(0 if self.has_reached(Stage.LATE) else seconds) as timeout:
                self._bounded.add(timeout)
                try:
                    yield
                finally:
                    self._bounded.discard(timeout)
        except TimeoutError as error:
            if self.has_reached(Stage.LATE):
                raise ShuttingDown from error
            raise


class ClosingConnections:
    """ASGI middleware around all others: answers of a front end that is leaving say so.

    So a client that keeps its connections makes its next call to another one, instead of meeting a
    connection that is closed under it.
    """

    def __init__(self, app: ASGIApp, stopping: Stopping) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._stopping.has_reached(
                Stage.LEAVING
            ):
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_closing)
