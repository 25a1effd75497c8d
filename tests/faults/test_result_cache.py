"""What was computed stays known through all faults but the loss of Redis' data."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
import pytest

from tests.faults.clients import Clients
from tests.faults.record import Submission
from tests.faults.scene import MODEL, Scene
from tests.faults.test_redis_faults import dead, lost, without_memory
from tests.faults.values import input_array, npy

pytestmark = pytest.mark.anyio


async def ask(scene: Scene, front: str, job: Submission, **headers: str) -> httpx.Response:
    """The input of a job again, by somebody else; whoever is not answered asks again."""
    query = {"model": MODEL, "class_index": "0"}
    kind = {"Content-Type": "application/x-npy"}
    async with httpx.AsyncClient(base_url=scene.fronts[front].url, trust_env=False) as http:
        return await http.post(
            "/v1/explanations",
            params=query,
            headers=kind | headers,
            content=npy(input_array(job.number)),
            timeout=60,
        )


async def known(asking: Clients) -> tuple[Submission, dict[str, Any]]:
    """A job that was computed, and what it was answered."""
    job = asking.submission()
    assert await asking.finish(job, "a", "b") == "succeeded"
    answer = await ask(asking.scene, "b", job)
    assert answer.headers["Cache-Status"] == "camserve; hit"
    return job, answer.json()


async def is_hit(scene: Scene, job: Submission, first: dict[str, Any], front: str = "a") -> bool:
    """Whether the input is known, with the same result."""
    answer = await ask(scene, front, job)
    if answer.headers.get("Cache-Status") != "camserve; hit":
        return False
    (one,), (other,) = first["results"], answer.json()["results"]
    assert one["target"] == other["target"]
    assert [one["map"][end] for end in ("min", "max")] == [
        other["map"][end] for end in ("min", "max")
    ]
    return True


async def test_it_needs_no_worker(scene: Scene, asking: Clients) -> None:
    job, first = await known(asking)
    for worker in scene.workers.values():
        for process in worker.family():
            os.kill(process.pid, signal.SIGKILL)
        worker.end()
    assert await is_hit(scene, job, first)
    await asking.wait_for(lambda: not scene.warm())
    assert await is_hit(scene, job, first, "b")
    assert len(scene.journal.of(job.number)) == 1


async def test_redis_dies_and_comes_back_with_its_data(scene: Scene, asking: Clients) -> None:
    job, first = await known(asking)
    await asking.wait_for(lambda: scene.store.info("persistence")["aof_pending_bio_fsync"] == 0)
    scene.store.bgrewriteaof()  # all of it is in the file then
    await asking.wait_for(
        lambda: (
            not scene.store.info("persistence")["aof_rewrite_in_progress"]
            and not scene.store.info("persistence")["aof_rewrite_scheduled"]
        )
    )
    with scene.record.fault("dead", loses_data=True, is_outage=True), dead(scene):
        refused = await ask(scene, "a", job)
        assert refused.status_code == 503
    scene.heal()
    assert await is_hit(scene, job, first)
    assert len(scene.journal.of(job.number)) == 1


async def test_redis_loses_its_data(scene: Scene, asking: Clients) -> None:
    job, _ = await known(asking)
    with scene.record.fault("lost", loses_data=True, is_outage=True), lost(scene):
        pass
    scene.heal()
    again = await ask(scene, "a", job)
    assert again.headers["Cache-Status"] == "camserve; fwd=miss; stored"
    assert len(scene.journal.of(job.number)) == 2
    assert again.json()["attempts"] == 1


async def test_redis_has_no_memory(scene: Scene, asking: Clients) -> None:
    job, first = await known(asking)
    with scene.record.fault("memory", is_outage=True), without_memory(scene):
        refused = await ask(scene, "a", job)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
    assert await is_hit(scene, job, first)


async def test_connections_are_cut_and_each_caller_has_one_job(
    scene: Scene, asking: Clients
) -> None:
    job, _ = await known(asking)
    keys = {"Idempotency-Key": f"twice-{job.number}"}
    network = scene.fronts["a"].network
    asked = [asyncio.create_task(ask(scene, front, job, **keys)) for front in "ab" * 4]
    await asyncio.to_thread(network.cut)
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
