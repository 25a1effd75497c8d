"""Workers that die or freeze in the middle of a job."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.faults.clients import Clients
from tests.faults.hosts import Worker
from tests.faults.network import Deed
from tests.faults.record import Submission
from tests.faults.scene import Scene

pytestmark = pytest.mark.anyio


async def begun(asking: Clients) -> tuple[Submission, Worker, int]:
    """A job that waits for a gate, the worker that computes it, and the number of the gate."""
    gate = asking.new_gate()
    job = asking.submission(Deed.WAIT, key=True, is_sync=False)
    await asking.submit("a", job, value=gate)
    return job, await asyncio.to_thread(asking.scene.running, job.number), gate


async def test_a_killed_child_is_replaced_and_its_job_done_by_another(
    pair: Scene, asking: Clients
) -> None:
    scene = pair
    job, worker, gate = await begun(asking)
    worker.kill_child()
    await asking.wait_for(lambda: len(scene.journal.of(job.number)) == 2)
    scene.open_gate(gate)
    assert await asking.finish(job, "b", "a") == "succeeded"
    first, second = scene.journal.of(job.number)
    assert first.pid != second.pid
    assert scene.store.hget(f"cam:{{net}}:job:{job.job_ids[0]}", "attempts") == b"2"


async def test_a_killed_supervisor_takes_no_job_along(scene: Scene, asking: Clients) -> None:
    """Its child is told by the kernel, finishes what it has, and goes."""
    job, worker, gate = await begun(asking)
    child = worker.child()
    assert child
    worker.kill()
    scene.open_gate(gate)
    assert await asking.finish(job, "a", "b") == "succeeded"
    assert len(scene.journal.of(job.number)) == 1
    await asking.wait_for(lambda: not child.is_running())


async def test_a_dead_host_is_noticed_by_its_lease(scene: Scene, asking: Clients) -> None:
    job, worker, gate = await begun(asking)
    for one in worker.family():
        os.kill(one.pid, signal.SIGKILL)
    scene.open_gate(gate)
    assert await asking.finish(job, "a", "b") == "succeeded"
    assert len(scene.journal.of(job.number)) == 2


async def test_a_host_that_was_frozen_past_its_lease_commits_nothing(
    pair: Scene, asking: Clients
) -> None:
    scene = pair
    job, worker, gate = await begun(asking)
    child = worker.child()
    assert child
    with worker.frozen():
        # the lease runs out, and another begins it
        await asking.wait_for(lambda: len(scene.journal.of(job.number)) == 2)
        scene.open_gate(gate)
        assert await asking.finish(job, "a", "b") == "succeeded"
    before = scene.store.hgetall(f"cam:{{net}}:job:{job.job_ids[0]}")
    await asking.wait_for(lambda: was_refused(worker, job.job_ids[0]))
    assert scene.store.hgetall(f"cam:{{net}}:job:{job.job_ids[0]}") == before
    await works_again(asking, worker, child.pid)


def was_refused(worker: Worker, job_id: str) -> bool:
    """Whether the worker tells that it wanted to commit a result, and was too late."""
    lines = worker.log.read_text().splitlines()
    return any("too late and was refused" in line and job_id in line for line in lines)


async def works_again(asking: Clients, worker: Worker, pid: int) -> None:
    """It takes its share of new jobs, and is the process that it was."""

    async def round_of_jobs() -> set[int]:
        jobs = [asking.submission(Deed.SLEEP, key=True) for _ in range(8)]
        done = (asking.finish(job, *asking.scene.fronts, value=50) for job in jobs)
        assert set(await asyncio.gather(*done)) == {"succeeded"}
        return {one.pid for job in jobs for one in asking.scene.journal.of(job.number)}

    while pid not in await round_of_jobs():
        child = worker.child()
        assert child
        assert child.pid == pid
