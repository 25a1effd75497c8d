"""`/readyz`: a worker has shown lately that it can explain, by the server's clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camserve.settings import Settings
from tests.app.front import Front, running_front
from tests.app.keys import add_key, guarded_front
from tests.broker.jobs import eventually

pytestmark = pytest.mark.anyio

SHORT = {"warm_up_every_s": 0.1, "job_time_limit_s": 0.1, "worker_stale_s": 0.4}
LASTS_S = 0.6


async def readiness(front: Front) -> tuple[int, dict[str, Any]]:
    response = await front.client.get("/readyz")
    assert response.headers["Cache-Control"] == "no-store"
    return response.status_code, response.json()


async def is_ready_by_open_inference(front: Front) -> bool:
    return (await front.client.get("/v2/health/ready")).status_code == 200


def test_a_proof_lasts_until_the_next_may_have_come() -> None:
    assert Settings(**SHORT).proof_lasts_s == pytest.approx(LASTS_S)  # type: ignore[arg-type]
    assert Settings().proof_lasts_s == 30 + 120 + 15


async def test_each_worker_is_told_with_its_proof(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        status, found = await readiness(front)
        assert (status, found["workers"], found["found"]) == (503, 0, [])
        assert found["reason"] == (
            "there is no live worker, so none that has run its warm-up explanation"
        )
        await front.heartbeat("toy", worker="a", warm=False, proof_age_s=1.0)
        status, found = await readiness(front)
        assert (status, found["redis"]) == (503, True)
        assert found["reason"] == "no live worker has run its warm-up explanation yet"
        await front.heartbeat("toy", worker="b", proof_age_s=165.5)
        status, found = await readiness(front)
        assert status == 503
        assert found["reason"] == (
            "no live worker has run its warm-up explanation in the last 165 s"
        )
        assert not await is_ready_by_open_inference(front)
        await front.heartbeat("toy", worker="c", proof_age_s=100.0, device="cuda:1")
        await front.heartbeat("toy", worker="d", warm=False, restarting=True)
        status, found = await readiness(front)
        assert (status, found["ready"], found["workers"], found["reason"]) == (200, True, 1, None)
        assert await is_ready_by_open_inference(front)
        states = {one["worker"]: one["state"] for one in found["found"]}
        assert states == {"a": "starting", "b": "unproven", "c": "ready", "d": "restarting"}
        third = next(one for one in found["found"] if one["worker"] == "c")
        assert (third["host"], third["device"]) == ("here", "cuda:1")
        assert third["proof_age_s"] >= 100


async def test_workers_that_died_are_no_longer_ready(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        await front.heartbeat("toy", warm=False, restarting=True)
        status, found = await readiness(front)
        assert status == 503
        assert found["reason"] == "each worker has died, and is about to be started again"


async def test_a_proof_ages_between_heartbeats(redis_url: str) -> None:
    """The worker told an age; since then time has passed on the server."""
    async with running_front(redis_url, **SHORT | {"worker_stale_s": 600}) as front:
        lasts_s = 600.2
        await front.heartbeat("toy", proof_age_s=lasts_s - 0.3)

        async def is_unproven() -> bool:
            status, found = await readiness(front)
            return status == 503 and found["found"][0]["state"] == "unproven"

        await eventually(is_unproven)
        await front.heartbeat("toy", proof_age_s=0.0)
        status, _ = await readiness(front)
        assert status == 200


async def test_a_worker_that_falls_silent_counts_no_more(redis_url: str) -> None:
    async with running_front(redis_url, worker_stale_s=0.3) as front:
        await front.heartbeat("toy")

        async def is_gone() -> bool:
            status, found = await readiness(front)
            return status == 503 and found["found"] == []

        await eventually(is_gone)


async def test_strangers_are_not_told_which_workers_there_are(
    redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path) as front:
        status, found = await readiness(front)
        assert (status, found["workers"], found["found"]) == (200, 1, [])
        front.client.headers["X-API-Key"] = "camserve_" + "0" * 64
        assert (await readiness(front)) == (status, found)
        front.client.headers["X-API-Key"] = key
        status, found = await readiness(front)
        assert [one["worker"] for one in found["found"]] == ["w1"]
