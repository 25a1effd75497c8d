"""The service over HTTP: how much it answers, how soon, and what it adds to the engine.

An API process, a worker and a private server on one machine, ResNet-50, JPEGs of 640 x 480. The
clients are this process, on the same cores as all the rest. Requests say `Cache-Control: no-cache`
but where the caches are what is measured, so that each is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.executions import optimised
from benchmarks.figures import Figure, Row, at_least, at_most
from benchmarks.load import Answer, Connection, Load, closed_loop, open_loop, request
from benchmarks.networks import NETWORKS, TINY, Network, pictures
from benchmarks.options import Options
from benchmarks.photographs import jpeg
from benchmarks.processor_time import ProcessorTime
from benchmarks.running import MODEL, Running, running, saved
from benchmarks.timing import timed
from camserve.engine import ClassIndex

__all__ = ["FRESH", "bare_per_s", "explain_path", "measure", "network_for", "photographs"]

WIDTH, HEIGHT = 640, 480
PHOTOGRAPHS = 32
BATCH = 8  # what a worker computes at once
CLIENTS = (1, 8, 32)
FORMS = {"JSON": "json", ".npy": "npy&size=224", "PNG": "png"}
RATES = (0.5, 0.8, 0.95)  # of what the service can do
FRESH = {"Cache_Control": "no-cache"}


def measure(options: Options) -> Iterator[Row]:
    network = network_for(options)
    with tempfile.TemporaryDirectory() as folder:
        model = saved(network, Path(folder))
        before = bare_per_s(network, options)
        with running(model, **options.settings) as service:
            bodies = photographs()
            yield from _closed(service, bodies, before, options)
            yield from _caches(service, options)
        after = bare_per_s(network, options)
    yield Figure("the bare engine afterwards / before", after / before, "x")


def network_for(options: Options) -> Network:
    return TINY if options.tiny else NETWORKS["resnet50"]


def photographs(first: int = 0, count: int = PHOTOGRAPHS) -> list[bytes]:
    """Different ones."""
    return [jpeg(WIDTH, HEIGHT, seed) for seed in range(first, first + count)]


def explain_path(form: str, class_index: int = 0) -> str:
    return f"/v1/explanations?model={MODEL}&class_index={class_index}&as={form}"


def bare_per_s(network: Network, options: Options) -> float:
    """Maps a second of the engine alone, as a worker runs it: full batches, one class each."""
    torch.set_num_threads(options.threads)
    (execution,) = optimised(network, options)
    inputs = pictures(BATCH, network.shape)
    explain = partial(execution.explain, inputs, [[ClassIndex(0)]] * BATCH)
    explain()
    rounds = 3 if options.tiny else max(4, round(options.lasting(16)))
    return BATCH / statistics.median(timed(explain) for _ in range(rounds))


def _closed(
    service: Running, bodies: Sequence[bytes], engine_per_s: float, options: Options
) -> Iterator[Row]:
    loads: dict[tuple[str, int], Load] = {}
    processors = ProcessorTime(service)
    for name, form in FORMS.items():
        requests = [request(explain_path(form), body, **FRESH) for body in bodies]
        asyncio.run(closed_loop(service.port, requests, BATCH, options.lasting(2)))  # warm up
        for clients in CLIENTS:
            # what is put in proportion takes longer
            lasting_s = options.lasting(10 if name == ".npy" else 5)
            is_full = (name, clients) == (".npy", CLIENTS[-1])
            with processors if is_full else contextlib.nullcontext():
                loads[name, clients] = asyncio.run(
                    closed_loop(service.port, requests, clients, lasting_s)
                )
            yield loads[name, clients].latencies(f"{name}, {plural(clients)}")
    yield from added(loads[".npy", 1])
    full = loads[".npy", CLIENTS[-1]].per_s
    yield Figure("the bare engine, batches of 8", engine_per_s, "/s")
    yield from processors.each(len(loads[".npy", CLIENTS[-1]].answers))
    yield Figure(
        "processor time of a map: all threads of the bare engine",
        options.threads * 1000 / engine_per_s, "ms",
    )  # fmt: skip
    yield Figure(
        f"{CLIENTS[-1]} clients / the bare engine, maps a second",
        full / engine_per_s, "x", at_least(0.85),
    )  # fmt: skip
    requests = [request(explain_path(FORMS[".npy"]), body, **FRESH) for body in bodies]
    for share in RATES:
        rate = full * share
        load = asyncio.run(open_loop(service.port, requests, rate, options.lasting(8)))
        yield load.latencies(f".npy, {rate:.1f}/s come ({share:.0%} of the most)")


def added(load: Load) -> Iterator[Row]:
    """What an answer takes beyond the worker's computing."""
    beyond_ms = [one.took_s * 1000 - timings_ms(one)["compute"] for one in load.answers]
    target = at_most(6)
    yield Figure(
        "added by HTTP and queue, 1 client, p50", statistics.median(beyond_ms), "ms", target
    )
    for name in timings_ms(load.answers[0]):
        median_ms = statistics.median(timings_ms(one)[name] for one in load.answers)
        yield Figure(f"Server-Timing of the same: {name}, p50", median_ms, "ms")


def timings_ms(answer: Answer) -> dict[str, float]:
    """What the header Server-Timing says."""
    found = re.findall(r"([a-z-]+);dur=([0-9.]+)", answer.headers["server-timing"])
    return {name: float(value) for name, value in found}


def _caches(service: Running, options: Options) -> Iterator[Row]:
    """Pictures that nobody has sent yet, then other classes of them, then the same again."""
    count = 2 if options.tiny else 8 if options.quick else 24
    took = asyncio.run(_one_after_the_other(service.port, photographs(PHOTOGRAPHS, count)))
    first_ms = statistics.median(took_ms[0] for took_ms in took)
    another_ms = statistics.median(each for took_ms in took for each in took_ms[1:4])
    again_ms = statistics.median(took_ms[4] for took_ms in took)
    yield Figure("a picture for the first time, p50", first_ms, "ms")
    yield Figure("the same picture, another class, p50", another_ms, "ms")
    yield Figure("the first time / another class", first_ms / another_ms, "x", at_least(10))
    yield Figure("the first time / the same once more", first_ms / again_ms, "x")


async def _one_after_the_other(port: int, bodies: Sequence[bytes]) -> list[list[float]]:
    """Milliseconds of four classes of each picture, the last of them twice."""
    took: list[list[float]] = []
    connection = Connection(port)
    for body in bodies:
        asked = (request(explain_path(FORMS[".npy"], index), body) for index in (0, 1, 2, 3, 3))
        answers = [await connection.ask(one, time.perf_counter()) for one in asked]
        took.append([one.took_s * 1000 for one in answers])
    await connection.close()
    return took


def plural(clients: int) -> str:
    return f"{clients} client{'s' * (clients != 1)}"
