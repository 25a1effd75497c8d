"""Front ends that die, hear nothing, or have another date; connections that break."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from tests.faults.clients import Clients
from tests.faults.network import Deed
from tests.faults.scene import HOUR_S, Scene

pytestmark = pytest.mark.anyio


async def test_who_waits_at_a_killed_front_end_asks_the_other_one_for_the_same_job(
    scene: Scene, asking: Clients
) -> None:
    gate = asking.new_gate()
    jobs = [asking.submission(Deed.WAIT, key=True) for _ in range(2)]
    waiting = [asyncio.create_task(asking.submit("a", job, value=gate)) for job in jobs]
    await asking.wait_for(lambda: all(scene.journal.of(job.number) for job in jobs))
    with scene.record.fault("front end a is killed", breaks="a"):
        scene.fronts["a"].kill()
        calls = await asyncio.gather(*waiting)
    assert all(call.broken for call in calls)
    again = [asyncio.create_task(asking.submit("b", job, value=gate)) for job in jobs]
    scene.open_gate(gate)
    assert {call.state for call in await asyncio.gather(*again)} == {"succeeded"}
    assert [len(scene.journal.of(job.number)) for job in jobs] == [1, 1]


async def test_a_front_end_that_hears_nothing_looks_by_itself(
    scene: Scene, asking: Clients
) -> None:
    with scene.fronts["a"].network.deaf():
        jobs = [asking.submission() for _ in range(10)]
        calls = await asyncio.gather(*(asking.submit("a", job) for job in jobs))
    assert {call.state for call in calls} == {"succeeded"}


async def test_connections_are_cut_and_nobody_notices(scene: Scene, asking: Clients) -> None:
    jobs = [asking.submission(Deed.SLEEP, is_sync=bool(i % 2)) for i in range(24)]
    done = asyncio.gather(*(asking.finish(job, *"ab", value=50) for job in jobs))
    for host in 3 * scene.hosts:
        await asyncio.to_thread(host.network.cut)
    assert set(await done) == {"succeeded"}


async def test_a_slow_network_makes_it_slow_and_nothing_else(scene: Scene, asking: Clients) -> None:
    with ExitStack() as stack:
        for host in scene.hosts:
            stack.enter_context(host.network.slow(0.1))
        jobs = [asking.submission(is_sync=bool(i % 2)) for i in range(8)]
        states = await asyncio.gather(*(asking.finish(job, *"ab") for job in jobs))
    assert set(states) == {"succeeded"}


async def test_hosts_need_no_common_clock(pair: Scene, asking: Clients) -> None:
    """One front end and one worker are hours off; deadlines and times of a job are Redis's."""
    gate = asking.new_gate()
    doors = [asking.submission(Deed.WAIT, key=True, is_sync=False) for _ in pair.workers]
    for door in doors:
        await asking.submit("b", door, value=gate)
        await asyncio.to_thread(pair.running, door.number)
    late = {front: asking.submission(deadline_s=1.0) for front in pair.fronts}
    calls = [await asking.submit(front, job) for front, job in late.items()]
    assert [call.code for call in calls] == ["deadline_exceeded"] * 2
    pair.open_gate(gate)
    for front in pair.fronts:
        async with httpx.AsyncClient(base_url=pair.fronts[front].url) as http:
            answer = await http.get(f"/v1/explanations/{doors[0].job_ids[0]}")
        created = datetime.fromisoformat(answer.json()["created_at"])
        assert abs(created.timestamp() - doors[0].calls[0].sent_s) < HOUR_S
        told = parsedate_to_datetime(answer.headers["date"])
        assert (abs(told - created).total_seconds() > HOUR_S) == (front == "b")
    assert {await asking.finish(door, *"ab") for door in doors} == {"succeeded"}
