"""Clients of an HTTP service that cost little: prepared requests on connections that are kept.

Closed loop: so many clients, each asking as soon as it is answered; it finds what the service can
do. Open loop: requests come at fixed times, whether or not earlier ones are answered, as from users
who know nothing of each other; a latency counts from when the request was to be sent, so that a
service that stalls cannot hide it by holding up the clients (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figures import Latencies
from benchmarks.timing import quantile

__all__ = ["Answer", "Connection", "Load", "ask", "closed_loop", "open_loop", "request"]

TIMEOUT_S = 120.0
HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """took_s: since the request was to be sent. ended_s: on the clock of the run."""

    status: int
    headers: dict[str, str]
    body: bytes
    took_s: float
    ended_s: float


@dataclass(frozen=True)
class Load:
    """All answers of a run that lasted `lasted_s`."""

    answers: Sequence[Answer]
    lasted_s: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.lasted_s

    def latencies(self, what: str) -> Latencies:
        """Raises RuntimeError if a request failed: to fail is quick."""
        if failed := [one for one in self.answers if one.status != 200]:
            said = failed[0].body[:500].decode(errors="replace")
            raise RuntimeError(f"{what}: {len(failed)} of {len(self.answers)} failed: {said}")
        shares = (0.5, 0.9, 0.99, 1.0)
        took_ms = [one.took_s * 1000 for one in self.answers]
        times_ms = (quantile(took_ms, share) for share in shares)
        return Latencies(what, len(took_ms), self.per_s, *times_ms)


def request(path: str, body: bytes, kind: str = "image/jpeg", **headers: str) -> bytes:
    """A POST as it goes over the wire; underscores in names of headers stand for hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Connection:
    """One kept connection, which is opened again if the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes, due_s: float) -> Answer:
        """due_s: when it was to be sent, on time.perf_counter's clock."""
        async with asyncio.timeout(TIMEOUT_S):
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    "127.0.0.1", self._port, limit=HEAD_BYTES
                )
            reader, writer = self._streams
            writer.write(data)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = _parse(head)
            body = await _body(reader, headers)
        now_s = time.perf_counter()
        if headers.get("connection") == "close":
            await self.close()
        return Answer(status, headers, body, now_s - due_s, now_s)

    async def close(self) -> None:
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            await writer.wait_closed()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


async def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.ask(data, time.perf_counter())
    finally:
        await connection.close()


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, lasting_s: float) -> Load:
    """Each client asks until the time is over; what is still under way then counts, with its time.

    requests: taken in turn by all clients together.
    """
    following = itertools.cycle(requests)
    start_s = time.perf_counter()
    answers: list[Answer] = []

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < start_s + lasting_s:
            answers.append(await connection.ask(next(following), time.perf_counter()))
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(answers, max(one.ended_s for one in answers) - start_s)


async def open_loop(port: int, requests: Sequence[bytes], per_s: float, lasting_s: float) -> Load:
    """Requests at fixed times, on as many connections as it takes."""
    following = itertools.cycle(requests)
    free: list[Connection] = []
    start_s = time.perf_counter()

    async def one(due_s: float) -> Answer:
        connection = free.pop() if free else Connection(port)
        answer = await connection.ask(next(following), due_s)
        free.append(connection)
        return answer

    async with asyncio.TaskGroup() as group:
        tasks = []
        for due_s in _times(start_s, per_s, lasting_s):
            await asyncio.sleep(due_s - time.perf_counter())
            tasks.append(group.create_task(one(due_s)))
    for connection in free:
        await connection.close()
    answers = [task.result() for task in tasks]
    return Load(answers, max(one.ended_s for one in answers) - start_s)


def _times(start_s: float, per_s: float, lasting_s: float) -> Iterator[float]:
    return (start_s + number / per_s for number in range(max(1, round(lasting_s * per_s))))
