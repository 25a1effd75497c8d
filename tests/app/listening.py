"""A front end in this process that listens on a port: for what happens to connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from app.main import create_app
from camserve.broker import Registry, WorkerQueue, connect
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.app.front import Front
from tests.service import free_port

__all__ = ["Caller", "listening_front"]


class Caller:
    """One connection, on which one request is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def post(cls, front: Front, path: str, body: bytes, **headers: str) -> Caller:
        """Header names are spelt with underscores."""
        url = front.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        fields = {"host": url.host, "content_length": str(len(body)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {v}\r\n" for name, v in fields.items())
        writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        return cls(reader, writer)

    async def status(self) -> int:
        """Of the answer."""
        async with asyncio.timeout(10):
            return int((await self.reader.readline()).split()[1])

    async def hang_up(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def listening_front(redis_url: str, **settings: Any) -> AsyncIterator[Front]:
    chosen = Settings(
        redis_url=redis_url, **{"port": free_port(), "sync_wait_s": 8.0, "lease_s": 1.0, **settings}
    )
    options = queue_options(chosen)
    config = uvicorn.Config(
        create_app(chosen), port=chosen.port, lifespan="on", loop="asyncio", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn tells by nothing else
                await asyncio.sleep(0.01)
        async with (
            connect(redis_url) as redis,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{chosen.port}", trust_env=False
            ) as client,
        ):
            registry = Registry(redis, options)
            yield Front(client, redis, options, registry, WorkerQueue(redis, options, "w1"))
    finally:
        server.should_exit = True
        await serving
