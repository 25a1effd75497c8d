"""Minutes at 80 % of what the service can do: memory stays flat, no key grows, `/livez` answers."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.clients import Clients, clients
from tests.faults.network import Deed
from tests.faults.prober import Prober
from tests.faults.scene import Scene
from tests.faults.server import BINARIES
from tests.faults.usage import Usage
from tests.service import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(7200)]

SOAK_S = float(os.environ.get("CAMSERVE_TEST_SOAK_S", "600"))
LOAD = 0.8
CAPACITY_S = 20.0
AT_ONCE = 8
MOST = 24
EVERY_S = 5.0
GROWTH = 0.03
LIVEZ_P99_MS = 50.0
SAMPLES = [path.read_bytes() for path in sorted((ROOT / "models/shapes/samples").glob("*.png"))]
Caller = Callable[[], Awaitable[object]]


class Callers:
    """What clients do, in the shares in which they do it. statuses: how they were answered."""

    def __init__(self, asking: Clients, http: httpx.AsyncClient) -> None:
        self.asking = asking
        self.http = http
        self.dice = random.Random(1)
        self.statuses: Counter[str] = Counter()
        self._kinds: list[Caller] = [
            *[self.overlay] * 40,
            *[self.explanation] * 20,
            *[self.prediction] * 15,
            *[self.job] * 20,
            *[self.listing] * 5,
        ]

    async def one(self) -> None:
        await self.dice.choice(self._kinds)()

    def _url(self, path: str) -> str:
        return self.dice.choice(list(self.asking.scene.fronts.values())).url + path

    async def _post(self, path: str, **query: str) -> None:
        answer = await self.http.post(
            self._url(path),
            params=query,
            content=self.dice.choice(SAMPLES),
            headers={"Content-Type": "image/png"},
        )
        self.statuses[f"{path} {answer.status_code}"] += 1

    async def overlay(self) -> None:
        await self._post("/v1/explanations", model="shapes", top="2", **{"as": "png"})

    async def explanation(self) -> None:
        await self._post("/v1/explanations", model="shapes", class_label="star")

    async def prediction(self) -> None:
        await self._post("/v1/models/shapes/predict")

    async def listing(self) -> None:
        answer = await self.http.get(self._url("/v1/explanations"))
        self.statuses[f"list {answer.status_code}"] += 1

    async def job(self) -> None:
        """With a key, a webhook, and asked for until it is done."""
        job = self.asking.submission(Deed.SLEEP, key=True, is_sync=False, webhook=True)
        url = self.asking.scene.webhook_url
        end = await self.asking.finish(job, *"ab", value=20.0, webhook=url)
        self.statuses[f"job {end}"] += 1


async def capacity(callers: Callers) -> float:
    """Calls a second, of clients that call again as soon as they are answered."""
    end_s = time.monotonic() + CAPACITY_S
    done = 0

    async def again_and_again() -> None:
        nonlocal done
        while time.monotonic() < end_s:
            await callers.one()
            done += 1

    await asyncio.gather(*(again_and_again() for _ in range(AT_ONCE)))
    return done / CAPACITY_S


async def steady(callers: Callers, rate: float, usage: Usage) -> None:
    """Calls that come whether or not others are answered, `rate` a second; but no more than MOST
    at once, so that a machine that others make slower is not taken for a leak."""
    started_s = time.monotonic()
    running: set[asyncio.Task[None]] = set()
    next_call_s = next_look_s = started_s
    while (now_s := time.monotonic()) < started_s + SOAK_S:
        if now_s >= next_look_s:
            await asyncio.to_thread(usage.look)
            next_look_s += EVERY_S
        if now_s >= next_call_s and len(running) >= MOST:
            callers.statuses["held back"] += 1
            next_call_s = now_s + 1 / rate
        elif now_s >= next_call_s:
            task = asyncio.create_task(callers.one())
            running.add(task)
            task.add_done_callback(running.discard)
            next_call_s += callers.dice.expovariate(rate)
        await asyncio.sleep(max(min(next_call_s, next_look_s) - time.monotonic(), 0))
    await asyncio.gather(*running)


def tell(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


async def test_memory_keys_and_livez_stay_as_they_are(tmp_path: Path) -> None:
    binary = BINARIES["valkey"]
    assert binary is not None
    scene = Scene(
        tmp_path,
        binary,
        small_disk=False,
        job_ttl_s=30,
        lease_s=10,
        job_time_limit_s=60,
        queue_depth=256,
    )
    (tmp_path / "models" / "shapes").symlink_to(ROOT / "models" / "shapes")
    usage = Usage(scene)
    with scene:
        await asyncio.to_thread(scene.heal, 2)
        async with (
            clients(scene) as asking,
            httpx.AsyncClient(timeout=60, trust_env=False) as http,
        ):
            callers = Callers(asking, http)
            await capacity(callers)  # warm
            most = await capacity(callers)
            callers.statuses.clear()
            probers = {name: Prober(f"{f.url}/livez", SOAK_S) for name, f in scene.fronts.items()}
            await steady(callers, LOAD * most, usage)
            seen = {name: prober.result() for name, prober in probers.items()}
        await asyncio.to_thread(scene.check)
        tell(
            f"{SOAK_S:.0f} s at {LOAD * most:.1f} calls a second, of {most:.1f}",
            *(f"{count:6}  {end}" for end, count in sorted(callers.statuses.items())),
        )
    for name, one in seen.items():
        tell(
            f"/livez of {name}: p50 {one.percentile(0.5):.1f} ms, p99 {one.percentile(0.99):.1f}, "
            f"longest {one.ms[-1]:.1f}, {one.failures} failures of {len(one.ms)}"
        )
    grown = {}
    for kind, all_series in (("MB of", usage.memory), ("keys", usage.keys)):
        for name, series in sorted(all_series.items()):
            if not usage.lasts(series):
                continue
            first, last = usage.growth(series)
            tell(f"{kind} {name}: {first:.1f} -> {last:.1f}")
            # noise of a few keys, as of jobs that are under way, is no growth
            if last > first * (1 + GROWTH if kind == "MB of" else 1.2) + (kind == "keys") * 20:
                grown[name] = first, last
    assert not grown
    assert not any(" 5" in status or "dead" in status for status in callers.statuses)
    for one in seen.values():
        assert one.failures == 0
        assert one.percentile(0.99) < LIVEZ_P99_MS
