"""TCP between one host and Redis, with all that a network does to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from tests.service import free_port

__all__ = ["Network", "Proxy"]

PORTION = 1 << 16


class Network:
    """A thread with an event loop, in which the proxies of a scene run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for proxy in self._proxies:
            proxy.refuse()
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def proxy(self, target: int | Path) -> Proxy:
        """target: a port of 127.0.0.1, or a socket."""
        proxy = Proxy(self, target)
        proxy.accept()
        self._proxies.append(proxy)
        return proxy

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    @staticmethod
    async def _end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """One host's way to Redis. All methods may be called from any thread."""

    def __init__(self, network: Network, target: int | Path) -> None:
        self.port = free_port()
        self._target = target
        self._network = network
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._delay_s = 0.0
        self._is_deaf = False
        self._abandoned: set[asyncio.StreamWriter] = set()

    def accept(self) -> None:
        """Let connections be made. The state at the beginning."""
        self._network.run(self._accept())

    def refuse(self) -> None:
        """Cut what there is, and refuse new connections."""
        self._network.run(self._refuse())

    def cut(self) -> None:
        """Reset all connections; new ones can be made at once."""
        self._network.run(self._cut())

    def abandon(self) -> None:
        """No more comes through the connections that there are, ever, and nobody is told so: as
        when a router forgets them. New ones are as any."""
        self._abandoned |= self._writers

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Nothing comes through in either direction, and nobody is told so. What was on its way
        arrives afterwards, as TCP sends it again."""
        self._network.run(self._pass(passing=False))
        try:
            yield
        finally:
            self._network.run(self._pass(passing=True))

    @contextmanager
    def slow(self, delay_s: float) -> Iterator[None]:
        """Each portion takes so much longer, each way."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """No notification comes through; all else does."""
        self._is_deaf = True
        try:
            yield
        finally:
            self._is_deaf = False

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    async def _pass(self, *, passing: bool) -> None:
        if passing:
            self._passing.set()
        else:
            self._passing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends, pumps = [writer], list[asyncio.Future[None]]()
        self._writers.add(writer)
        try:
            await self._passing.wait()
            from_server, to_server = await self._connect()
            ends.append(to_server)
            self._writers.add(to_server)
            pumps = [
                asyncio.ensure_future(self._pump(reader, to_server)),
                asyncio.ensure_future(self._pump(from_server, writer, hears=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # Redis is away: the client is told by the end of its connection
        finally:
            for pump in pumps:
                pump.cancel()
            for end in ends:
                self._writers.discard(end)
                self._abandoned.discard(end)
                _abort(end)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, hears: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while portion := await reader.read(PORTION):
                await self._passing.wait()
                if writer in self._abandoned:
                    continue
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if hears and self._is_deaf and portion.startswith(b"*3\r\n$7\r\nmessage\r\n"):
                    continue
                writer.write(portion)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """The other side sees a reset, not an orderly end."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
