"""Whether the API answers while it works: `python -m benchmarks.http [--requests N]`.

Sends 32 explanations of 12-megapixel JPEGs at once, again and again, and asks /livez every few
milliseconds meanwhile, from a process of its own. Then a mixture of valid and invalid requests,
with the memory and the open files of the service before and after. All of it is real: an API
process, a worker, a Valkey server, HTTP over loopback. What else runs on the machine shows in the
numbers; the first line, of an idle service, says how much.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import httpx
import numpy as np
from PIL import Image

from camserve.broker.embedded import EmbeddedServer
from tests.e2e.mixed_load import Usage, flood
from tests.service import ROOT, Service, make_repository

AT_ONCE = 32
WIDTH, HEIGHT = 4000, 3000
EVERY_S = 0.005
IDLE_S = 3.0
WARM_UP = 500


def photo(seed: int) -> bytes:
    """12 megapixels that compress as a photograph does, to about 3 MB."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def ask_livez(port: int, end: Connection) -> None:
    """Milliseconds of each answer, until a message comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took_ms = []
    while not end.poll(EVERY_S):
        start_s = time.perf_counter()
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        took_ms.append((time.perf_counter() - start_s) * 1000)
    end.send(took_ms)


class Livez:
    """Asks /livez from a process of its own, for as long as the context lasts."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=ask_livez, args=(port, theirs), daemon=True)
        self.took_ms: list[float] = []

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self.took_ms = self._ours.recv()
        self._process.join()


def line(what: str, took_ms: Sequence[float]) -> str:
    cuts = statistics.quantiles(took_ms, n=1000)
    return (
        f"{what:<46} p50 {cuts[499]:6.1f}  p99 {cuts[989]:6.1f}  max {max(took_ms):6.1f} ms  "
        f"(n={len(took_ms)})"
    )


async def explain_photos(url: str, photos: Sequence[bytes], rounds: int) -> list[float]:
    """Seconds of each of `rounds` times AT_ONCE explanations, so many at once."""
    took_s = []
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def one(number: int) -> None:
            start_s = time.perf_counter()
            files = {"input": ("photo.jpg", photos[number % len(photos)])}
            answer = await client.post(
                f"{url}/v1/explanations?as=png",
                data={"model": "shapes", "deadline_ms": "120000"},
                files=files,
                headers={"Prefer": "wait=110"},
            )
            answer.raise_for_status()
            took_s.append(time.perf_counter() - start_s)

        for _ in range(rounds):
            await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    return took_s


def measure_livez(service: Service, rounds: int) -> None:
    photos = [photo(seed) for seed in range(4)]
    megabytes = sum(map(len, photos)) / len(photos) / 1e6
    with Livez(service.port) as idle:
        time.sleep(IDLE_S)
    print(line("/livez of an idle service", idle.took_ms))
    with Livez(service.port) as busy:
        start_s = time.perf_counter()
        took_s = asyncio.run(explain_photos(service.url, photos, rounds))
        all_s = time.perf_counter() - start_s
    print(line(f"/livez while {AT_ONCE} explanations run at once", busy.took_ms))
    print(
        f"  {len(took_s)} JPEGs of {WIDTH * HEIGHT / 1e6:.0f} megapixels ({megabytes:.1f} MB) in "
        f"{all_s:.1f} s: {len(took_s) / all_s:.1f}/s, p50 {statistics.median(took_s):.1f} s each"
    )


def measure_mixture(service: Service, count: int) -> None:
    asyncio.run(flood(service, WARM_UP, seed=0))
    before = Usage.of(service)
    start_s = time.perf_counter()
    report = asyncio.run(flood(service, count))
    took_s = time.perf_counter() - start_s
    after = Usage.of(service)
    print(f"{count} mixed requests in {took_s:.0f} s: {count / took_s:.0f}/s")
    print("  " + ", ".join(f"{status}: {n}" for status, n in report.statuses.most_common()))
    for part in before.files:
        print(
            f"  {part:<8} {before.resident[part] / 1e6:.0f} -> {after.resident[part] / 1e6:.0f} MB "
            f"resident, {before.files[part]} -> {after.files[part]} open files"
        )
    for error in report.errors:
        print(f"  WRONG: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of the mixture")
    parser.add_argument("--rounds", type=int, default=3, help=f"of {AT_ONCE} explanations at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = make_repository(Path(folder) / "models", ROOT / "models" / "shapes")
        with (
            EmbeddedServer(Path(folder) / "state") as server,
            Service(server.url, models, Path(folder), queue_depth=4096) as service,
        ):
            measure_livez(service, options.rounds)
            if options.requests:
                measure_mixture(service, options.requests)


if __name__ == "__main__":
    main()
