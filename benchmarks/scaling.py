"""What more workers bring: each computes with one thread, and clients keep all of them busy."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, Missing, Row
from benchmarks.load import closed_loop, request
from benchmarks.options import Options
from benchmarks.running import running, saved
from benchmarks.service import FRESH, explain_path, network_for, photographs

__all__ = ["measure"]

WORKERS = (1, 2, 4)
CLIENTS = 32


def measure(options: Options) -> Iterator[Row]:
    if options.device != "cpu":
        yield Missing("workers of one thread", "it is measured on the CPU alone")
        return
    requests = [request(explain_path("npy&size=224"), body, **FRESH) for body in photographs()]
    alone = 0.0
    with tempfile.TemporaryDirectory() as folder:
        model = saved(network_for(options), Path(folder))
        for workers in WORKERS[: 2 if options.tiny else None]:
            known = options.settings | {"devices": ",".join(["cpu"] * workers), "threads": 1}
            with running(model, **known) as service:
                for lasting_s in (3, 10):  # the first to warm up
                    load = asyncio.run(
                        closed_loop(service.port, requests, CLIENTS, options.lasting(lasting_s))
                    )
            alone = alone or load.per_s
            yield load.latencies(f"{workers} x 1 thread, {CLIENTS} clients")
            yield Figure(
                f"{workers} x 1 thread / 1 x 1 thread, maps a second", load.per_s / alone, "x"
            )
