"""A supervisor tells a frozen child from one that works, and from a machine that slept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.cards import settings
from workers import child
from workers import pulse as pulse_module
from workers.pacing import end
from workers.pulse import Pulse, beat

pytestmark = pytest.mark.anyio

LOOK_S = 0.02
SILENCE_S = 0.2


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulse]:
    monkeypatch.setattr(pulse_module, "LOOK_S", LOOK_S)
    monkeypatch.setattr(pulse_module, "PULSE_S", LOOK_S)
    monkeypatch.setattr(pulse_module, "LEAST_SILENCE_S", SILENCE_S)
    with Pulse(start_s=1000, silence_s=SILENCE_S) as pulse:
        yield pulse


async def test_a_child_that_beats_is_left_alone_and_one_that_falls_silent_is_not(
    pulse: Pulse,
) -> None:
    beating = asyncio.create_task(beat(pulse.fd))
    watching = asyncio.create_task(pulse.stops())
    await asyncio.sleep(3 * SILENCE_S)
    assert not watching.done()
    assert not pulse.is_frozen
    beating.cancel()
    async with asyncio.timeout(10):
        assert await watching >= SILENCE_S
    assert pulse.is_frozen


async def test_a_child_may_take_its_time_to_start(pulse: Pulse) -> None:
    watching = asyncio.create_task(pulse.stops())
    await asyncio.sleep(3 * SILENCE_S)
    assert not watching.done()
    os.write(pulse.fd, b".")
    async with asyncio.timeout(10):
        await watching


async def test_a_child_that_never_starts_is_given_up() -> None:
    with Pulse(start_s=0.5, silence_s=1000) as pulse:
        async with asyncio.timeout(10):
            await pulse.stops()


async def test_the_end_of_the_pipe_is_no_beat(pulse: Pulse) -> None:
    os.write(pulse.fd, b".")
    pulse.child_has_it()  # and the child closed its end
    async with asyncio.timeout(10):
        await pulse.stops()


async def test_the_time_that_the_machine_slept_does_not_count(pulse: Pulse) -> None:
    """Both stood still, and the supervisor is woken first."""
    os.write(pulse.fd, b".")
    watching = asyncio.create_task(pulse.stops())
    await asyncio.sleep(2 * LOOK_S)
    time.sleep(5 * SILENCE_S)  # noqa: ASYNC251 - the event loop is to stand still
    await asyncio.sleep(2 * LOOK_S)  # as many looks as that, and one
    assert not watching.done()
    watching.cancel()


async def test_a_supervisor_that_stands_still_blocks_no_child(pulse: Pulse) -> None:
    beating = asyncio.create_task(beat(pulse.fd))
    await asyncio.sleep(0)
    with contextlib.suppress(BlockingIOError):
        while os.write(pulse.fd, b"." * 4096):
            pass
    await asyncio.sleep(3 * LOOK_S)
    assert not beating.done()
    beating.cancel()


async def test_a_child_that_reads_a_large_repository_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervisors, childs = os.pipe()

    def read_until_heard(_: Path) -> None:
        heard, _, _ = select.select([supervisors], [], [], 10)
        raise ValueError("heard" if heard else "silent")

    monkeypatch.setattr(child, "scan", read_until_heard)
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="heard"):
        await child.work(settings(), "unix://nowhere", "w1", "cpu", childs)
    await end(*asyncio.all_tasks() - before)
    for fd in (supervisors, childs):
        os.close(fd)
