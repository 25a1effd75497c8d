"""Whether the API answers while it works.

32 explanations of 12-megapixel JPEGs run at once, again and again, while another process asks
/livez every few milliseconds. What else runs on the machine shows in the numbers; the first, of an
idle service, says how much.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from benchmarks.figures import Figure, Row, at_most
from benchmarks.load import closed_loop, request
from benchmarks.networks import TINY
from benchmarks.options import Options
from benchmarks.photographs import jpeg
from benchmarks.running import running, saved
from benchmarks.service import FRESH, explain_path
from benchmarks.timing import quantile

__all__ = ["measure"]

AT_ONCE = 32
WIDTH, HEIGHT = 4000, 3000
EVERY_S = 0.005


def measure(options: Options) -> Iterator[Row]:
    """The network is tiny, so that the front end is what is busy."""
    size = (400, 300) if options.tiny else (WIDTH, HEIGHT)
    requests = [request(explain_path("png"), jpeg(*size, seed), **FRESH) for seed in range(4)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(saved(TINY, Path(folder)), threads=1, optimization="none") as service,
    ):
        with Livez(service.port) as idle:
            time.sleep(options.lasting(3))
        with Livez(service.port) as busy:
            load = asyncio.run(closed_loop(service.port, requests, AT_ONCE, options.lasting(15)))
    yield Figure("/livez, idle, p50", quantile(idle.took_ms, 0.5), "ms")
    yield Figure("/livez, idle, p99", quantile(idle.took_ms, 0.99), "ms")
    what = f"/livez while {AT_ONCE} 12-megapixel JPEGs are explained"
    yield Figure(f"{what}, p50", quantile(busy.took_ms, 0.5), "ms")
    yield Figure(f"{what}, p99", quantile(busy.took_ms, 0.99), "ms", at_most(50))
    yield load.latencies(f"12-megapixel JPEGs to PNG overlays, {AT_ONCE} at once")


class Livez:
    """Asks /livez from a process of its own, for as long as the context lasts."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=ask_livez, args=(port, theirs), daemon=True)
        self.took_ms: list[float] = []

    def __enter__(self) -> Self:
        self._process.start()
        assert self._ours.recv() == "asking"
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("enough")
        self.took_ms = self._ours.recv()
        self._process.join()


def ask_livez(port: int, end: Connection) -> None:
    """Milliseconds of each answer, until a message comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    end.send("asking")
    took_ms: list[float] = []
    while not (took_ms and end.poll(EVERY_S)):
        start_s = time.perf_counter()
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        took_ms.append((time.perf_counter() - start_s) * 1000)
    end.send(took_ms)
