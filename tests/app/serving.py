"""The front end's own server in this process, on a real socket; the test plays the worker."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.main import create_app
from app.server import Server, server_of
from app.stopping import Stopping
from camserve.broker import Registry, WorkerQueue, connect
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.app.front import Front

__all__ = ["Serving", "serving"]


@dataclass(frozen=True)
class Serving:
    """front: its client speaks to the server by sockets. end: of the server, once it stops."""

    front: Front
    server: Server
    stopping: Stopping
    port: int
    end: asyncio.Task[None]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        """A connection on which the test writes what it likes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def is_refused(self) -> bool:
        """Whether nobody listens any more."""
        try:
            async with self.connection():
                return False
        except ConnectionRefusedError:
            return True


@asynccontextmanager
async def serving(redis_url: str, **chosen: Any) -> AsyncIterator[Serving]:
    """A server with its lifespan; it is stopped at the end, if it still serves."""
    settings = Settings(redis_url=redis_url, port=0, **{"sync_wait_s": 60.0, **chosen})
    app = create_app(settings)
    server = server_of(settings, app)
    end = asyncio.create_task(server.serve())
    while not server.started:
        assert not end.done()
        await asyncio.sleep(0.01)
    port = int(server.servers[0].sockets[0].getsockname()[1])
    options = queue_options(settings)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
    async with connect(redis_url) as redis, client:
        front = Front(
            client, redis, options, Registry(redis, options), WorkerQueue(redis, options, "w1")
        )
        try:
            yield Serving(front, server, app.state.stopping, port, end)
        finally:
            await client.aclose()
            server.should_exit = True
            await end
