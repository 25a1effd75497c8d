"""Inputs that kill, hang or fail: they end by themselves, and take no other job along."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.clients import Clients
from tests.faults.network import Deed
from tests.faults.scene import Scene

pytestmark = pytest.mark.anyio

AN_HOUR_MS = 3.6e6


async def test_batch_mates_of_what_kills_its_worker_succeed(scene: Scene, asking: Clients) -> None:
    together = False
    while not together:
        gate = asking.new_gate()
        doors = [asking.submission(Deed.WAIT, key=True, is_sync=False) for _ in scene.workers]
        for door in doors:
            await asking.submit("a", door, value=gate)
            await asyncio.to_thread(scene.running, door.number)
        poison = asking.submission(Deed.KILL, is_sync=False)
        mates = [asking.submission(key=True, is_sync=False) for _ in range(2)]
        for job in (poison, *mates):
            await asking.submit("b", job)
        scene.open_gate(gate)
        assert {await asking.finish(job, "a", "b") for job in (*doors, *mates)} == {"succeeded"}
        assert await asking.finish(poison, "a") == "dead"
        # on a busy machine the workers may have shared them
        together = any(scene.journal.mates({poison.number}))


async def test_whatever_an_input_does_its_caller_is_told(scene: Scene, asking: Clients) -> None:
    gives_up, fails = ("dead", "dead_lettered"), ("failed", "internal")
    ends = {
        Deed.SEGFAULT: gives_up,
        Deed.HANG: gives_up,
        Deed.HOLD_GIL: gives_up,
        Deed.RAISE: fails,
        Deed.RAISE_UNPRINTABLE: fails,
        Deed.TOO_LARGE: ("failed", "too_large_for_device"),
    }
    bad = [asking.submission(deed, key=True) for deed in ends]
    good = [asking.submission(key=True, is_sync=bool(i % 2)) for i in range(20)]
    ended = asyncio.gather(*(asking.finish(job, "a", "b", value=AN_HOUR_MS) for job in bad))
    assert {await asking.finish(job, "b", "a") for job in good} == {"succeeded"}
    for end, (deed, expected) in zip(await ended, ends.items(), strict=True):
        assert end in expected, deed
