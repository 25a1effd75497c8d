"""What a request costs of the processor, by the process that takes it: why a service is not faster
than it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Self

import psutil

from benchmarks.figures import Figure
from benchmarks.running import Running

__all__ = ["ProcessorTime"]


class ProcessorTime:
    """Seconds of processor time of each part of a service, and of its clients, which are this
    process, that were taken while the context lasted: as the kernel counts them."""

    def __init__(self, service: Running) -> None:
        self._parts = {**service.parts(), "clients": [psutil.Process()]}
        self._before: Mapping[str, float] = {}
        self.seconds: Mapping[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._taken()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._taken()
        self.seconds = {part: after[part] - known for part, known in self._before.items()}

    def _taken(self) -> dict[str, float]:
        return {part: sum(map(_seconds_of, found)) for part, found in self._parts.items()}

    def each(self, requests: int) -> Iterator[Figure]:
        """Milliseconds that a request took of each part."""
        for part, seconds in self.seconds.items():
            yield Figure(f"processor time of a request: {part}", seconds * 1000 / requests, "ms")


def _seconds_of(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
