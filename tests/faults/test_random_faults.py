"""Jobs of all kinds under faults at random: none is lost, none is done twice, nobody hangs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos
from tests.faults.clients import Clients, clients
from tests.faults.load import Load
from tests.faults.network import Deed
from tests.faults.scene import Scene
from tests.faults.server import BINARIES
from tests.faults.snapshot import Snapshot

pytestmark = pytest.mark.anyio

SEED = int(os.environ.get("CAMSERVE_TEST_SEED", "5"))


async def run(
    scene: Scene, asking: Clients, *, jobs: int, at_once: int, every_s: float
) -> Counter[str]:
    """How the clients ended; the schedule of faults is in the output of a test that fails."""
    chaos = Chaos(scene, SEED, every_s)
    load = Load(asking, SEED)
    over = asyncio.Event()
    raging = asyncio.create_task(chaos.run(over))
    try:
        await load.run(jobs, at_once)
    finally:
        over.set()
        await raging
        tell(f"seed {SEED}", *chaos.schedule, *sorted(load.told()))
    await asyncio.to_thread(scene.heal)
    await asking.wait_for(scene.is_at_rest)
    await asking.wait_for(lambda: not undelivered(scene))
    assert load.hanging == 0
    assert_nobody_is_given_up_in_vain(scene)
    return load.ends


def tell(*lines: str) -> None:
    """Shown with `-s`, and where the test fails."""
    sys.stdout.write("\n".join(lines) + "\n")


def undelivered(scene: Scene) -> list[str]:
    """Jobs whose end the receiver was to be told, and was not."""
    snapshot = Snapshot.of(scene.store)
    return [
        job_id
        for submission in scene.record.submissions.values()
        if submission.webhook and not scene.record.losses(submission.calls[0].sent_s, 1e12)
        for job_id in submission.job_ids
        if job_id in snapshot.jobs and not scene.record.webhooks[job_id]
    ]


def assert_nobody_is_given_up_in_vain(scene: Scene) -> None:
    """Who waited long enough and did no harm has a result, unless its worker died every time."""
    snapshot = Snapshot.of(scene.store)
    for submission in scene.record.submissions.values():
        if submission.deed != Deed.SLEEP or submission.deadline_s or submission.cancel_answer:
            continue
        for job in (snapshot.jobs[i] for i in submission.job_ids if i in snapshot.jobs):
            given_up = job.state == "dead" and job.attempts == scene.limits.max_attempts
            assert job.state == "succeeded" or given_up, job.fields


async def test_a_hundred_and_fifty_jobs(scene: Scene, asking: Clients) -> None:
    await run(scene, asking, jobs=150, at_once=12, every_s=1.0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", BINARIES)
async def test_two_thousand_jobs(name: str, tmp_path: Path) -> None:
    binary = BINARIES[name]
    if binary is None:
        pytest.skip(f"no {name}-server on PATH")
    with Scene(tmp_path, binary, room=3, max_attempts=3, queue_depth=64) as scene:
        async with clients(scene) as asking:
            await run(scene, asking, jobs=2000, at_once=24, every_s=2.0)
        scene.check()
