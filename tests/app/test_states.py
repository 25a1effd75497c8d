"""What a client sees of a job's life, whatever happens to it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import numpy as np
import pytest

from camserve.broker import JobQueue, keys
from camserve.contracts.explanations import Explanation
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import WHOLE_PASS
from camserve.errors import InvalidRequest
from tests.app.front import CARD, Front, png, problem, running_front

pytestmark = pytest.mark.anyio

ASYNC = {"Prefer": "respond-async"}


async def accepted(front: Front, **params: Any) -> str:
    response = await front.post(params=params, headers=ASYNC)
    assert response.status_code == 202, response.text
    return str(response.headers["Location"])


async def state_at(front: Front, href: str) -> Explanation:
    response = await front.client.get(href)
    assert response.status_code == 200, response.text
    return Explanation.model_validate(response.json())


async def test_a_synchronous_call_waits_for_the_result(front: Front) -> None:
    response, job, _ = await front.done(front.post(params={"class_index": "1,3"}))
    assert response.status_code == 200
    done = Explanation.model_validate(response.json())
    assert response.headers["Location"] == done.href
    assert done.state == "succeeded"
    assert [row.target.class_index for row in done.results] == [1, 3]
    assert [row.target.class_label for row in done.results] == ["heart, love", "crane bird"]
    assert done.results[0].map.shape == (4, 4)
    assert (done.results[0].map.min, done.results[0].map.max) == (-4.0, 11.0)
    assert done.timings_ms.compute == 1.5
    assert done.created_at <= (done.started_at or done.created_at) <= (done.completed_at or 0)
    assert job.request_id == response.headers["X-Request-ID"]


async def test_queued_running_succeeded(front: Front) -> None:
    href = await accepted(front)
    queued = await state_at(front, href)
    assert (queued.state, queued.started_at, queued.results) == ("queued", None, ())
    map_href = f"{href}/results/0/map"
    assert "queued" in problem(await front.client.get(map_href), 409, "not_ready")["detail"]

    begun = await front.begin()
    running = await state_at(front, href)
    assert (running.state, running.attempts) == ("running", 1)
    assert running.started_at is not None
    assert "running" in problem(await front.client.get(map_href), 409, "not_ready")["detail"]

    failure = FailureMessage.of(InvalidRequest("no such parameter", field="params"))
    assert await front.worker.fail(begun, failure.model_dump_json().encode())
    failed = await state_at(front, href)
    assert failed.state == "failed"
    assert failed.error == failure
    assert problem(await front.client.get(map_href), 422, "invalid_request")["field"] == "params"
    overlay = await front.client.get(f"{href}/results/0/overlay")
    assert problem(overlay, 422, "invalid_request")["field"] == "params"


async def test_a_failed_synchronous_call_is_the_errors_own_status(front: Front) -> None:
    async def fail() -> None:
        failure = FailureMessage.of(InvalidRequest("no such parameter", field="params"))
        await front.worker.fail(await front.begin(), failure.model_dump_json().encode())

    response, _ = await asyncio.gather(front.post(), fail())
    document = problem(response, 422, "invalid_request")
    assert (await state_at(front, document["explanation"])).state == "failed"


async def test_a_wait_that_is_over_becomes_the_202(redis_url: str) -> None:
    async with running_front(redis_url, sync_wait_s=1000) as front:
        await front.publish()
        started_s = time.monotonic()
        response = await front.post(headers={"Prefer": "wait=1"})
        assert time.monotonic() - started_s > 0.9
        assert response.status_code == 202
        assert response.headers["Preference-Applied"] == "wait=1"
        assert response.json()["state"] == "queued"
        await front.work()
        assert (await state_at(front, response.headers["Location"])).state == "succeeded"


async def test_an_asynchronous_call_may_wait_a_little(front: Front) -> None:
    """RFC 7240, 4.3: `respond-async, wait=10` is one wish."""
    response, _, _ = await front.done(front.post(headers={"Prefer": "respond-async, wait=7"}))
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers


async def test_the_servers_limit_ends_a_wait(redis_url: str) -> None:
    async with running_front(redis_url, sync_wait_s=0.2) as front:
        await front.publish()
        response = await front.post(headers={"Prefer": "wait=60"})
        assert response.status_code == 202
        assert response.headers["Preference-Applied"] == "wait=0.2"
        assert (await front.post()).status_code == 202


async def test_a_deadline_that_passes_is_504_and_expired(front: Front) -> None:
    asked = asyncio.create_task(front.post(params={"deadline_ms": 100_000}))
    claim = await front.claim()
    record = await JobQueue(front.redis, front.options).get(claim.job_id)
    assert record is not None
    assert 90_000 < record.deadline_ms - record.created_ms <= 100_000
    await front.redis.hset(keys.job("toy", claim.job_id), "deadline_ms", 0)  # as if it were now
    document = problem(await asked, 504, "deadline_exceeded")
    expired = await state_at(front, document["explanation"])
    assert expired.state == "expired"
    assert expired.error is not None
    assert expired.error.code == "deadline_exceeded"


@pytest.mark.parametrize(
    ("asked", "expected_s"),
    [
        ({}, 60),
        ({"method": "layercam"}, 60),
        ({"method": "scorecam"}, 60 + 80),
        ({"method": "ablationcam"}, 60 + 80),
        ({"evaluate": '{"steps": 5}'}, 60 + 80),
        ({"method": "scorecam", "deadline_ms": 5000}, 5),
    ],
)
async def test_what_may_compute_for_long_has_a_later_deadline(
    redis_url: str, asked: dict[str, Any], expected_s: float
) -> None:
    """Else it would expire while its worker still has time to compute it."""
    async with running_front(redis_url, deadline_s=60, job_time_limit_s=100) as front:
        await front.publish()
        href = await accepted(front, **asked)
        record = await JobQueue(front.redis, front.options).get(href.rsplit("/", 1)[1])
        assert record is not None
        # from the arrival, since when some moments have passed
        assert expected_s - 55 < (record.deadline_ms - record.created_ms) / 1000 <= expected_s


async def test_that_deadline_is_one_that_a_caller_may_name(redis_url: str) -> None:
    async with running_front(redis_url, deadline_s=60, max_deadline_s=90) as front:
        await front.publish()
        href = await accepted(front, method="scorecam")
        record = await JobQueue(front.redis, front.options).get(href.rsplit("/", 1)[1])
        assert record is not None
        assert 60 < (record.deadline_ms - record.created_ms) / 1000 <= 90


async def test_a_deadline_beyond_the_limit_is_refused(front: Front) -> None:
    document = problem(await front.post(params={"deadline_ms": 10**8}), 422, "invalid_request")
    assert document["limit"] == 3_600_000
    assert "3600000" in document["detail"]


async def test_cancel_a_queued_job_twice(front: Front) -> None:
    href = await accepted(front)
    for _ in range(2):
        response = await front.client.delete(href)
        assert response.status_code == 200
        assert response.json()["state"] == "canceled"
    assert problem(await front.client.get(f"{href}/results/0/map"), 409, "canceled")


async def test_cancel_a_running_and_a_finished_job(front: Front) -> None:
    href = await accepted(front)
    begun = await front.begin()
    assert (await front.client.delete(href)).json()["state"] == "running"
    assert await front.worker.is_canceled(begun)
    await front.worker.finish(begun, b"unused")
    assert (await state_at(front, href)).state == "canceled"

    other = await accepted(front)
    await front.work()
    assert (await front.client.delete(other)).json()["state"] == "succeeded"


async def test_a_job_that_kills_its_workers_is_given_up(redis_url: str) -> None:
    async with running_front(redis_url, lease_s=0.2, max_attempts=2) as front:
        await front.publish()
        href = await accepted(front)
        await front.begin()
        for _ in range(2):
            await asyncio.sleep(0.3)
            for claim in await front.worker.reclaim(["toy"]):
                await front.worker.begin(claim)
        dead = await state_at(front, href)
        assert (dead.state, dead.attempts) == ("dead", 2)
        document = problem(await front.client.get(f"{href}/results/0/map"), 500, "dead_lettered")
        assert "2 attempts" in document["detail"]


async def test_a_full_queue_is_429_and_says_when(redis_url: str) -> None:
    async with running_front(redis_url, queue_depth=1) as front:
        await front.publish()
        await accepted(front)
        response = await front.post()
        document = problem(response, 429, "queue_full")
        assert (document["limit"], document["priority"]) == (1, "interactive")
        assert document["retry_after_s"] > 0
        assert int(response.headers["Retry-After"]) == math.ceil(document["retry_after_s"])


async def test_a_full_bulk_line_refuses_bulk_alone(redis_url: str) -> None:
    async with running_front(redis_url, bulk_queue_depth=1) as front:
        await front.publish()
        await accepted(front, priority="bulk")
        refused = await front.post(params={"priority": "bulk"}, headers=ASYNC)
        assert problem(refused, 429, "queue_full")["priority"] == "bulk"
        await accepted(front)


async def test_a_job_takes_the_room_of_its_inputs_in_a_batch(front: Front) -> None:
    """One of many passes has a batch for itself, so that nothing is claimed that waits for it."""
    files = [("input", png())] * 3
    await front.client.post("/v1/explanations", data={"model": "toy"}, files=files, headers=ASYNC)
    for params in ({"method": "scorecam"}, {}, {}):
        await accepted(front, **params)
    found = [await front.worker.claim(["toy"], 4, 0.01) for _ in range(3)]
    assert [len(claims) for claims in found] == [1, 1, 2]
    assert [claims[0].weight for claims in found] == [3, WHOLE_PASS, 1]


async def test_a_job_that_the_server_lost_is_handed_in_again(front: Front) -> None:
    async def lose_and_work() -> str:
        begun = await front.begin()
        await front.redis.flushall()
        await front.publish()
        await front.work()
        return begun.job_id

    response, job_id = await asyncio.gather(front.post(), lose_and_work())
    assert response.status_code == 200, response.text
    assert response.json()["id"] == job_id


async def test_a_key_that_another_request_took_after_a_loss_answers_for_both(front: Front) -> None:
    """The lost request follows the job that has its key by then, instead of asking for ever."""
    headers = {"Idempotency-Key": "k"}

    async def lose_and_work() -> str:
        lost = await front.begin()
        await front.redis.flushall()
        await front.publish()
        second = await front.post(headers=headers | {"Prefer": "respond-async"})
        job_id = second.headers["Location"].rpartition("/")[2]
        assert job_id != lost.job_id
        await front.work()
        return job_id

    response, job_id = await asyncio.gather(front.post(headers=headers), lose_and_work())
    assert response.status_code == 200, response.text
    assert response.json()["id"] == job_id


async def test_a_result_that_redis_lost_is_503_and_not_404(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: JobQueue, __: str) -> None:
        return None

    def large(_: int) -> np.ndarray:  # a small one comes with the news that it is there
        return np.zeros((100, 100), np.float32)

    monkeypatch.setattr(JobQueue, "result", gone)
    response, _, _ = await front.done(front.post(), large)
    problem(response, 503, "queue_unavailable")


async def test_a_server_that_is_away_is_503_everywhere() -> None:
    async with running_front("redis://127.0.0.1:1") as front:
        asked = [
            await front.post(),
            await front.client.get("/v1/models"),
            await front.client.get("/v1/models/toy"),
            await front.client.get("/v1/explanations/01J00000000000000000000000-toy"),
        ]
        for response in asked:
            document = problem(response, 503, "queue_unavailable")
            assert int(response.headers["Retry-After"]) == document["retry_after_s"] > 0
        assert (await front.client.get("/livez")).status_code == 200
        ready = await front.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["redis"] is False


@pytest.mark.parametrize(
    "path", ["nonsense", "01J00000000000000000000000-toy", "../x", "%00", "a" * 300]
)
async def test_an_unknown_explanation_is_404(front: Front, path: str) -> None:
    for method in ("GET", "DELETE"):
        response = await front.client.request(method, f"/v1/explanations/{path}")
        assert response.status_code == 404, response.text
        assert response.headers["content-type"] == "application/problem+json"


async def test_an_unknown_result_is_404(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    href = response.headers["Location"]
    for number in (1, 10**30):
        for what in ("map", "overlay"):
            answer = await front.client.get(f"{href}/results/{number}/{what}")
            problem(answer, 404, "not_found")
    problem(await front.client.get(f"{href}/results/-1/map"), 422, "invalid_request")


async def test_the_same_key_is_the_same_explanation(front: Front) -> None:
    key = {"Idempotency-Key": "abc", **ASYNC}
    first = await front.post(headers=key)
    again = await front.post(headers=key)
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    await front.work()
    third = await front.post(headers={"Idempotency-Key": "abc"})
    assert third.status_code == 200
    assert third.json()["id"] == first.json()["id"]

    for other in (
        {"params": {"class_index": 1}},
        {"params": {"execution": "cpu"}},
        {"content": png(color=(1, 2, 3))},
    ):
        document = problem(await front.post(headers=key, **other), 409, "idempotency_conflict")
        assert "'abc'" in document["detail"]
    for wrong in ("k" * 256, ""):
        document = problem(
            await front.post(headers={"Idempotency-Key": wrong}), 422, "invalid_request"
        )
        assert document["field"] == "Idempotency-Key"


async def test_another_file_name_or_a_reload_is_the_same_request(front: Front) -> None:
    key = {"Idempotency-Key": "abc", **ASYNC}
    ids = set()
    for name, version in (("cat.png", "v1"), ("kat.png", "v1"), ("cat.png", "v2")):
        await front.publish(CARD.model_copy(update={"version": version}))
        response = await front.client.post(
            "/v1/explanations", data={"model": "toy"}, files={"input": (name, png())}, headers=key
        )
        assert response.status_code == 202, response.text
        ids.add(response.json()["id"])
    assert len(ids) == 1


async def test_a_picture_of_the_feature_grid_is_refused_before_there_is_a_job(
    front: Front,
) -> None:
    response = await front.post(params={"size": "feature", "as": "png"})
    document = problem(response, 422, "invalid_request")
    assert "size=input&upsampling=nearest" in document["detail"]
    assert document["field"] == "output.size"
    assert "explanation" not in document
    assert not await front.worker.claim(["toy"], 1, 0.1)
    response, _, _ = await front.done(front.post(params={"size": "feature", "as": "npy"}))
    assert response.status_code == 200
