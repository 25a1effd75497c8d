"""Memory of each process of the service, at rest and while 32 clients keep it busy."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil

from benchmarks.figures import Figure
from benchmarks.load import closed_loop, request
from benchmarks.options import Options
from benchmarks.running import Running, running, saved
from benchmarks.service import FRESH, explain_path, network_for, photographs

__all__ = ["measure"]

EVERY_S = 0.05
CLIENTS = 32


class Peaks:
    """The most megabytes of each part that were seen while the context lasted."""

    def __init__(self, service: Running) -> None:
        self._parts = service.parts()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.megabytes: dict[str, float] = defaultdict(float)

    def _watch(self) -> None:
        while not self._stopping.wait(EVERY_S):
            for part, processes in self._parts.items():
                self.megabytes[part] = max(self.megabytes[part], resident_mb(processes))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def measure(options: Options) -> Iterator[Figure]:
    """Resident megabytes; shared pages count in each process that has them."""
    requests = [request(explain_path("npy&size=224"), body, **FRESH) for body in photographs()]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(saved(network_for(options), Path(folder)), **options.settings) as service,
    ):
        rest = {part: resident_mb(processes) for part, processes in service.parts().items()}
        with Peaks(service) as peaks:
            asyncio.run(closed_loop(service.port, requests, CLIENTS, options.lasting(15)))
        time.sleep(options.lasting(2))
        after = {part: resident_mb(processes) for part, processes in service.parts().items()}
    for part, megabytes in rest.items():
        yield Figure(f"{part}: resident, ready, before the first request", megabytes, "MB")
        yield Figure(f"{part}: most while {CLIENTS} clients ask", peaks.megabytes[part], "MB")
        yield Figure(f"{part}: resident afterwards", after[part], "MB")


def resident_mb(processes: list[psutil.Process]) -> float:
    found = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.memory_info().rss
    return found / 1e6
