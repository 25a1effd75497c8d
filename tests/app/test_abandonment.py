"""Clients that hang up while their call waits, on real connections: what goes with them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from camserve.broker import JobQueue, State
from tests.app.front import CARD, Front, png
from tests.app.listening import Caller, listening_front
from tests.broker.jobs import assert_at_rest, eventually

pytestmark = pytest.mark.anyio

RAW = ("/v1/explanations?model=toy", png(), {"content_type": "image/png"})
KSERVE = (
    "/v1/models/toy:explain",
    json.dumps({"instances": [{"b64": base64.b64encode(png()).decode()}]}).encode(),
    {"content_type": "application/json"},
)
TENSOR = {"name": "input", "shape": [1], "datatype": "BYTES"}
OPEN_INFERENCE = (
    "/v2/models/toy/explain",
    json.dumps({"inputs": [TENSOR | {"data": [base64.b64encode(png()).decode()]}]}).encode(),
    {"content_type": "application/json"},
)
PREDICT = ("/v1/models/toy/predict", png(), {"content_type": "image/png"})
Sent = tuple[str, bytes, dict[str, str]]
ALL = {"own": RAW, "kserve": KSERVE, "open inference": OPEN_INFERENCE, "predict": PREDICT}


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[Front]:
    async with listening_front(
        redis_url, sync_wait_s=20.0, webhook_hosts=("http://127.0.0.1:9",),
        webhook_secret=("whsec_" + base64.b64encode(b"s" * 24).decode(),),
    ) as running:  # fmt: skip
        await running.publish(CARD)
        yield running


async def ids(front: Front) -> set[str]:
    names = await front.redis.keys("cam:{toy}:job:*")
    return {name.decode().rpartition(":")[2] for name in names}


async def call(front: Front, sent: Sent, **headers: str) -> tuple[Caller, str]:
    """A call that waits, and the id of its job."""
    known = await ids(front)
    path, body, given = sent
    caller = await Caller.post(front, path, body, **given, **headers)

    async def fresh() -> set[str]:
        return await ids(front) - known

    (job_id,) = await eventually(fresh, 10)
    return caller, job_id


async def state(front: Front, job_id: str) -> State:
    found = await known_state(front, job_id)
    assert found is not None
    return found


async def known_state(front: Front, job_id: str) -> State | None:
    record = await JobQueue(front.redis, front.options).get(job_id)
    return record.state if record else None


async def closed(front: Front, job_id: str) -> State:
    async def look() -> State | None:
        now = await state(front, job_id)
        return None if now in ("queued", "running") else now

    return State(await eventually(look, 10))


async def noticed(front: Front) -> None:
    """Returns once the front end has seen all that hung up before."""
    caller, job_id = await call(front, RAW)
    await caller.hang_up()
    assert await closed(front, job_id) is State.CANCELED
    assert (await front.client.get("/livez")).status_code == 200


@pytest.mark.parametrize("sent", ALL.values(), ids=ALL)
async def test_a_queued_job_goes_with_its_client(front: Front, sent: Sent) -> None:
    caller, job_id = await call(front, sent)
    await caller.hang_up()
    assert await closed(front, job_id) is State.CANCELED
    assert await front.worker.claim(["toy"], 1, 0.01) == []
    await assert_at_rest(front.redis)


@pytest.mark.parametrize("sent", ALL.values(), ids=ALL)
async def test_a_running_job_is_asked_to_stop(front: Front, sent: Sent) -> None:
    caller, job_id = await call(front, sent)
    begun = await front.begin()
    assert begun.job_id == job_id
    await caller.hang_up()
    await eventually(lambda: front.worker.is_canceled(begun), 10)
    assert await front.worker.finish(begun, b"result")
    assert await state(front, job_id) is State.CANCELED


KEPT: dict[str, tuple[Sent, dict[str, str]]] = {
    "may come back by its key": (RAW, {"idempotency_key": "mine"}),
    "may come back by its key, KServe": (KSERVE, {"idempotency_key": "mine"}),
    "did not want to wait": (RAW, {"prefer": "respond-async"}),
    "is told by a webhook": (
        ("/v1/explanations?model=toy&webhook=http://127.0.0.1:9/", *RAW[1:]),
        {},
    ),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
async def test_what_somebody_may_still_want_goes_on(
    front: Front, kept: tuple[Sent, dict[str, str]]
) -> None:
    sent, headers = kept
    caller, job_id = await call(front, sent, **headers)
    await caller.hang_up()
    await noticed(front)
    assert await state(front, job_id) is State.QUEUED
    await front.work()
    assert await state(front, job_id) is State.SUCCEEDED


async def test_the_other_who_waits_by_the_same_key_has_the_result(front: Front) -> None:
    key = {"idempotency_key": "shared"}
    first, job_id = await call(front, RAW, **key)
    path, body, headers = RAW
    second = await Caller.post(front, path, body, **headers, **key)
    await first.hang_up()
    await noticed(front)
    await front.work()
    assert await second.status() == 200
    assert await state(front, job_id) is State.SUCCEEDED
    await second.hang_up()


@pytest.mark.parametrize(("sent", "status"), [(RAW, 202), (KSERVE, 504)])
async def test_what_was_answered_before_it_was_done_goes_on(
    redis_url: str, sent: Any, status: int
) -> None:
    async with listening_front(redis_url, sync_wait_s=0.3) as front:
        await front.publish(CARD)
        caller, job_id = await call(front, sent)
        assert await caller.status() == status
        await caller.hang_up()
        assert (await front.client.get(f"/v1/explanations/{job_id}")).json()["state"] == "queued"
        await front.work()
        assert await state(front, job_id) is State.SUCCEEDED


@pytest.mark.parametrize(
    ("headers", "expected"), [({}, "canceled"), ({"prefer": "respond-async"}, "queued")]
)
async def test_a_client_that_is_gone_before_its_job_is_there(
    front: Front, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], expected: str
) -> None:
    enqueue = JobQueue.enqueue
    handed_in: list[str] = []

    async def after_it_left(self: JobQueue, **job: Any) -> Any:
        monkeypatch.undo()
        await caller.hang_up()
        await asyncio.sleep(0.05)  # so that the front end has seen it
        handed_in.append(job["job_id"])
        return await enqueue(self, **job)

    monkeypatch.setattr(JobQueue, "enqueue", after_it_left)
    path, body, given = RAW
    caller = await Caller.post(front, path, body, **given, **headers)

    async def is_as_expected() -> bool:
        return bool(handed_in) and await known_state(front, handed_in[0]) == expected

    await eventually(is_as_expected, 10)
    await noticed(front)
    assert await state(front, handed_in[0]) == expected
