"""uvicorn's server, with an end of its own: nobody who was accepted is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Final, cast

import uvicorn
from fastapi import FastAPI

from app.http_protocol import ConnectionLimits, Protocol
from app.stopping import ANSWER_S, LIFESPAN_S, Stage, Stopping
from app.supervisor import BACKLOG
from camserve.settings import Settings

__all__ = ["Server", "server_of"]

logger = logging.getLogger(__name__)

LOOK_S: Final = 0.02
LINGER_S: Final = 1.0  # for the next call of a client that keeps its connection


def server_of(settings: Settings, app: FastAPI, *, shared: bool = False) -> Server:
    """app: from `create_app` with the same settings. shared: its sockets are those of several
    processes."""
    limits = ConnectionLimits(settings.stall_s, settings.max_connections)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # httptools, where it is installed, bounds no head
        http=partial(Protocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",  # whose portions they are
        log_config=None,
        access_log=False,  # with queries, which may hold signatures: see app.request_log
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]
        server_header=False,
        # asyncio accepts so many at a time: of a line that is shared, others are to have some, too
        backlog=1 if shared else BACKLOG,
    )
    return Server(config, settings, app.state.stopping)


class Server(uvicorn.Server):
    """Stops in the steps of `app.stopping`.

    In all that takes `shutdown_delay_s`, as much of `drain_s` as there are calls to answer, and at
    most ANSWER_S and LIFESPAN_S after it. A second SIGINT ends it at once, a second SIGTERM means
    the same as the first: process managers signal a group and its parent.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, stopping: Stopping) -> None:
        super().__init__(config)
        self._settings = settings
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would die by them after a clean end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)  # the line itself is as long as ever

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        logger.info("the API is stopping: what was accepted is answered first")
        self._stopping.enter(Stage.LEAVING)
        await self._pass(self._settings.shutdown_delay_s)
        self._stop_listening()
        self._stopping.enter(Stage.DRAINING)
        await self._pass(self._settings.drain_s, self._is_done)
        self._stopping.enter(Stage.LATE)
        await self._pass(ANSWER_S, self._is_done)
        self._cut_off()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIFESPAN_S):
                await self.lifespan.shutdown()

    @property
    def _connections(self) -> list[Protocol]:
        return cast("list[Protocol]", list(self.server_state.connections))

    async def _pass(
        self, seconds: float, is_done: Callable[[float], bool] = lambda _: False
    ) -> None:
        """Let the time pass, unless all is done, of which it asks how much has passed; or somebody
        is in a hurry."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        while (passed_s := clock.time() - began_s) < seconds and not self.force_exit:
            if is_done(passed_s):
                return
            await asyncio.sleep(LOOK_S)

    def _is_done(self, passed_s: float) -> bool:
        """Whether everybody is answered. Idle connections are closed once they had their time."""
        if passed_s >= LINGER_S or self._stopping.has_reached(Stage.LATE):
            for connection in self._connections:
                connection.leave()
        return not (self.server_state.connections or self.server_state.tasks)

    def _stop_listening(self) -> None:
        """Accept nobody more, but those whom the kernel has accepted already: for their clients a
        connection that was made is one that is served."""
        loop = asyncio.get_running_loop()
        for server in self.servers:
            copies = []
            with _without_files():
                copies += [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
            server.close()
            for copy in copies:
                with copy:
                    accepted = _accepted(copy)
                for one in accepted:
                    task = loop.create_task(loop.connect_accepted_socket(self._protocol, one))
                    self.server_state.tasks.add(task)  # type: ignore[arg-type]
                    task.add_done_callback(self.server_state.tasks.discard)

    def _protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _cut_off(self) -> None:
        """Those who take or send their bytes too slowly; no answer is made up for them."""
        if left := self._connections:
            logger.warning("%d connections were not finished in time and are cut off", len(left))
        for connection in left:
            connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()


def _accepted(listening: socket.socket) -> list[socket.socket]:
    """All who are in the line."""
    listening.setblocking(False)  # noqa: FBT003 - positional only
    accepted = []
    with _without_files(), contextlib.suppress(BlockingIOError):
        while True:
            with contextlib.suppress(ConnectionAbortedError, InterruptedError):
                accepted.append(listening.accept()[0])
    return accepted


@contextlib.contextmanager
def _without_files() -> Iterator[None]:
    """The shutdown goes on for all others where a process has as many files open as it may."""
    try:
        yield
    except OSError as error:
        logger.warning("connections in the line of the socket are not served: %s", error.strerror)
