"""What more workers bring, of one thread and of all, beside one of all. Clients keep all of them
busy."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, Missing, Row, at_least
from benchmarks.load import closed_loop, request
from benchmarks.options import Options
from benchmarks.running import running, saved
from benchmarks.service import FRESH, bare_per_s, explain_path, network_for, photographs

__all__ = ["measure"]

CLIENTS = 32


def measure(options: Options) -> Iterator[Row]:
    if options.device != "cpu":
        yield Missing("workers of one thread", "it is measured on the CPU alone")
        return
    requests = [request(explain_path("npy&size=224"), body, **FRESH) for body in photographs()]
    network, per_s = network_for(options), dict[tuple[int, int], float]()
    with tempfile.TemporaryDirectory() as folder:
        model = saved(network, Path(folder))
        for workers, threads in _arrangements(options):
            known = options.settings | {"devices": ",".join(["cpu"] * workers), "threads": threads}
            with running(model, **known) as service:
                for lasting_s in (3, 10):  # the first to warm up
                    load = asyncio.run(
                        closed_loop(service.port, requests, CLIENTS, options.lasting(lasting_s))
                    )
            per_s[workers, threads] = load.per_s
            yield load.latencies(f"{_named(workers, threads)}, {CLIENTS} clients")
            if threads == 1 < workers:
                yield _ratio(per_s, (workers, 1), (1, 1))
    one = (1, options.threads)
    if options.threads > 1:
        for other in (options.several_workers, (2, options.threads)):
            yield _ratio(per_s, other, one)
    most = max(per_s[known] for known in per_s if math.prod(known) == options.threads)
    yield Figure(
        f"the best of {options.threads} threads / the bare engine, maps a second",
        most / bare_per_s(network, options), "x", at_least(0.85),
    )  # fmt: skip


def _arrangements(options: Options) -> list[tuple[int, int]]:
    """How many workers, of how many threads: more and more of one, then of all threads."""
    found = [(count, 1) for count in ((1, 2) if options.tiny else (1, 2, 4))]
    found += [options.several_workers, (1, options.threads), (2, options.threads)]
    return list(dict.fromkeys(found))


def _ratio(
    per_s: dict[tuple[int, int], float], one: tuple[int, int], other: tuple[int, int]
) -> Figure:
    what = f"{_named(*one)} / {_named(*other)}, maps a second"
    return Figure(what, per_s[one] / per_s[other], "x")


def _named(workers: int, threads: int) -> str:
    return f"{workers} x {threads} thread{'s' * (threads > 1)}"
