"""The same question again is answered without a worker, in whatever form it is asked."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from camserve.broker import JobQueue
from camserve.contracts.jobs import Job
from tests.app.front import CARD, Front, png, prediction_of, problem, result_of, running_front
from tests.app.outbound.web_server import web_server
from tests.app.webhooks.inbox import Inbox, hooked_front
from tests.broker.jobs import assert_at_rest, kill
from workers.computed import computed_digest

pytestmark = pytest.mark.anyio

ASYNC = {"Prefer": "respond-async"}
HIT = "camserve; hit"
COMPUTED = "camserve; fwd=miss; stored"
OPTIONS: list[dict[str, str]] = [
    {"convention": "captum"},
    {"upsampling": "nearest"},
    {"size": "input"},
    {"map": "list"},
    {"map": "npy_base64", "dtype": "float16"},
    {"view": "side_by_side", "as": "png"},
    {"colormap": "jet", "alpha": "0.2", "as": "webp"},
    {"as": "npy"},
    {"priority": "bulk", "deadline_ms": "5000"},
]


@pytest.fixture(autouse=True)
def look_at_workers_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.catalog.WORKERS_FRESH_S", -1.0)


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[Front]:
    async with running_front(redis_url, result_cache_mb=1) as running:
        await running.publish()
        yield running


async def computed(front: Front, **options: Any) -> dict[str, Any]:
    """The explanation of a request that a worker has to do."""
    response, _, _ = await front.done(front.post(**options))
    assert response.status_code == 200, response.text
    return dict(response.json())


async def is_idle(front: Front) -> bool:
    return not await front.worker.claim(["toy"], 1, 0)


def by_no_cache(front: Front, **options: Any) -> Awaitable[httpx.Response]:
    headers = options.pop("headers", {}) | {"Cache-Control": "no-cache"}
    return front.post(headers=headers, **options)


async def test_the_same_again(front: Front) -> None:
    first, _, _ = await front.done(front.post(params={"class_index": "2"}))
    assert first.headers["Cache-Status"] == COMPUTED
    assert first.json()["computation"]["cache"] is None
    again = await front.post(params={"class_index": "2"})
    assert again.status_code == 200
    assert again.headers["Cache-Status"] == HIT
    assert again.headers["Location"] == again.json()["href"]
    assert await is_idle(front)
    one, other = first.json(), again.json()
    assert other["id"] != one["id"]
    assert (other["state"], other["attempts"], other["started_at"]) == ("succeeded", 0, None)
    assert other["timings_ms"] == {"queue": None, "compute": None, "total": 0}
    assert other["computation"] == one["computation"] | {"cache": "result", "forward_passes": 0}
    timing = again.headers["Server-Timing"]
    assert "prepare" in timing
    assert "compute" not in timing
    assert "queue" not in timing
    for result, as_before in zip(other["results"], one["results"], strict=True):
        assert result["target"] == as_before["target"]
        for link, options in (("map", {}), ("overlay", {"size": "64"})):
            made, expected = [
                await front.client.get(of[link]["href"], params=options)
                for of in (result, as_before)
            ]
            assert made.status_code == 200
            assert made.content == expected.content
    listed = (await front.client.get("/v1/explanations")).json()["explanations"]
    assert [each["id"] for each in listed] == [other["id"], one["id"]]
    events = await front.client.get(other["events"]["href"])
    assert '"state":"succeeded"' in events.text
    await assert_at_rest(front.redis)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_what_is_made_of_a_result_is_no_other_question(
    front: Front, options: dict[str, str]
) -> None:
    await computed(front)
    asked = {"class_index": "0"} | options
    await computed(front, params={"class_index": "0"})
    found = await front.post(params=asked)
    assert (found.status_code, found.headers["Cache-Status"]) == (200, HIT)
    afresh, _, _ = await front.done(by_no_cache(front, params=asked))
    assert afresh.headers["Cache-Status"] == "camserve; fwd=request; stored"
    assert found.headers["Content-Type"] == afresh.headers["Content-Type"]
    if found.headers["Content-Type"] != "application/json":
        assert found.content == afresh.content
        return
    for one, other in zip(found.json()["results"], afresh.json()["results"], strict=True):
        one["map"].pop("href")
        other["map"].pop("href")
        one.pop("overlay")
        other.pop("overlay")
        assert one == other


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"class_index": "1"}, None),
        ({"top": "2"}, None),
        ({"method": "layercam"}, None),
        ({"feature_layer": "head"}, None),
        ({"precision": "bfloat16"}, None),
        ({"execution": "cpu"}, None),
        ({}, png(color=(1, 2, 3))),
    ],
    ids=str,
)
async def test_another_question_is_computed(
    front: Front, options: dict[str, str], content: bytes | None
) -> None:
    await computed(front, params={"class_index": "0"})
    response, _, _ = await front.done(
        front.post(
            content, params={"class_index": "0"} | options if "top" not in options else options
        )
    )
    assert response.headers["Cache-Status"] == COMPUTED


async def test_the_same_pixels_from_another_file(front: Front) -> None:
    await computed(front, params={"class_index": "0"})
    file = io.BytesIO()
    Image.open(io.BytesIO(png())).save(file, "BMP")
    files = {"input": ("mine.bmp", file.getvalue())}
    asked = {"model": "toy", "class_index": "0"}
    response = await front.client.post("/v1/explanations", files=files, data=asked)
    assert response.headers["Cache-Status"] == HIT
    assert response.json()["results"][0]["input_name"] == "mine.bmp"


async def test_overlays_are_drawn_on_the_callers_own_picture(front: Front) -> None:
    """Which may be another one than that from which the same tensor was made."""
    small = png(32, 32, (9, 9, 9))
    await computed(front, content=small)
    large = await front.post(png(64, 64, (9, 9, 9)), params={"as": "png", "alpha": "0"})
    assert large.headers["Cache-Status"] == HIT
    assert Image.open(io.BytesIO(large.content)).size == (64, 64)


async def test_by_request_it_is_computed_and_kept_or_not(front: Front) -> None:
    first = {"headers": {"Cache-Control": "no-store"}}
    response, _, _ = await front.done(front.post(**first))
    assert response.headers["Cache-Status"] == "camserve; fwd=request"
    response, _, _ = await front.done(front.post())
    assert response.headers["Cache-Status"] == COMPUTED, "what came before was not kept"
    response, _, _ = await front.done(front.post(**first), lambda _: np.full((4, 4), 9, np.float32))
    assert response.headers["Cache-Status"] == "camserve; fwd=request"
    again = await front.post()
    assert again.json()["results"][0]["map"]["max"] == 11, "nor did it change what was"
    fresh, _, _ = await front.done(by_no_cache(front), lambda _: np.full((4, 4), 7, np.float32))
    assert fresh.headers["Cache-Status"] == "camserve; fwd=request; stored"
    assert (await front.post()).json()["results"][0]["map"]["max"] == 7


async def test_who_does_not_wait_has_it_at_once(front: Front) -> None:
    await computed(front)
    response = await front.post(headers=ASYNC)
    assert (response.status_code, response.headers["Cache-Status"]) == (200, HIT)


async def test_a_small_result_is_not_asked_for_again(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with the news of the end; a hit, with the answer to the question."""

    async def not_needed(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(JobQueue, "result", not_needed)
    await computed(front)
    monkeypatch.setattr(JobQueue, "wait", not_needed)
    again = await front.post(params={"as": "npy"})
    assert again.headers["Cache-Status"] == HIT


async def test_a_large_result_answers_as_well(front: Front) -> None:
    def large(_: int) -> np.ndarray:
        return np.full((100, 100), 5, np.float32)

    first, _, _ = await front.done(front.post(params={"as": "npy", "size": "feature"}), large)
    again = await front.post(params={"as": "npy", "size": "feature"})
    assert again.headers["Cache-Status"] == HIT
    assert again.content == first.content
    assert np.load(io.BytesIO(again.content)).shape == (100, 100)


async def test_while_no_worker_lives(front: Front) -> None:
    await computed(front)
    await front.registry.remove_worker("w1")
    response = await front.post()
    assert (response.status_code, response.headers["Cache-Status"]) == (200, HIT)
    problem(await front.post(params={"class_index": "1"}), 503, "no_worker")
    problem(await by_no_cache(front), 503, "no_worker")
    problem(await front.post(params={"model": "unknown"}), 404, "model_not_found")
    assert await is_idle(front)


async def test_while_no_worker_has_the_device(front: Front) -> None:
    await front.heartbeat("toy", device="cuda:0", worker="w2")
    begun, _ = await asyncio.gather(_begun_on_gpu(front), front.post(params={"execution": "cuda"}))
    assert begun
    await front.registry.remove_worker("w2")
    found = await front.post(params={"execution": "cuda"})
    assert found.headers["Cache-Status"] == HIT
    problem(await front.post(params={"execution": "cuda", "top": "2"}), 503, "no_worker")


async def _begun_on_gpu(front: Front) -> bool:
    from camserve.broker import WorkerQueue

    worker = WorkerQueue(front.redis, front.options, "w2", "cuda:0")
    while not (claims := await worker.claim(["toy"], 1, 1.0)):
        pass
    begun = await worker.begin(claims[0])
    assert begun is not None
    job = Job.model_validate_json(begun.document)
    result = result_of(job)
    return await worker.finish(begun, result, computed_digest(job, result))


async def test_while_the_queue_is_full(redis_url: str) -> None:
    async with running_front(redis_url, result_cache_mb=1, queue_depth=1) as front:
        await front.publish()
        await computed(front)
        waiting = await front.post(params={"top": "2"}, headers=ASYNC)
        assert waiting.status_code == 202
        problem(await front.post(params={"top": "3"}), 429, "queue_full")
        response = await front.post()
        assert (response.status_code, response.headers["Cache-Status"]) == (200, HIT)


async def test_a_repeated_request_is_the_same_explanation(front: Front) -> None:
    await computed(front)
    key = {"Idempotency-Key": "k"}
    first = await front.post(headers=key)
    again = await front.post(headers=key)
    assert first.headers["Cache-Status"] == again.headers["Cache-Status"] == HIT
    assert first.json()["id"] == again.json()["id"]
    problem(await front.post(headers=key, params={"top": "2"}), 409, "idempotency_conflict")


async def test_a_new_version_of_the_model_knows_nothing(front: Front) -> None:
    await computed(front)
    await front.publish(CARD.model_copy(update={"version": "v2"}))
    response, job, _ = await front.done(front.post())
    assert (job.model_version, response.headers["Cache-Status"]) == ("v2", COMPUTED)


async def test_what_a_newer_version_computed_is_not_kept_for_the_older_one(front: Front) -> None:
    async def work() -> None:
        begun = await front.begin()
        job = Job.model_validate_json(begun.document)
        result = result_of(job.model_copy(update={"model_version": "v2"}))
        assert await front.worker.finish(begun, result, computed_digest(job, result))

    response, _ = await asyncio.gather(front.post(), work())
    assert response.headers["Cache-Status"] == "camserve; fwd=miss"
    response, _, _ = await front.done(front.post())
    assert response.headers["Cache-Status"] == COMPUTED


async def test_a_failure_is_not_kept(front: Front) -> None:
    async def fail() -> None:
        failure = b'{"code": "internal", "detail": "it broke"}'
        assert await front.worker.fail(await front.begin(), failure)

    failed, _ = await asyncio.gather(front.post(), fail())
    problem(failed, 500, "internal")
    assert "Cache-Status" not in failed.headers
    assert (await front.done(front.post()))[0].headers["Cache-Status"] == COMPUTED


async def test_a_replay_is_computed_and_kept(front: Front) -> None:
    response = await front.post(headers=ASYNC)
    queue = JobQueue(front.redis, front.options)
    dead = await kill(queue, front.redis, front.options, response.json()["id"])
    await front.publish(CARD.model_copy(update={"version": "v2"}))
    replay = await front.client.post(f"/v1/dead-letters/{dead}/replay")
    assert replay.status_code < 300, replay.text
    job, _ = await front.work()
    assert (job.caching, job.model_version) == ("refresh", "v2")
    assert (await front.post()).headers["Cache-Status"] == HIT


async def test_a_replay_of_what_was_not_to_be_kept(front: Front) -> None:
    response = await front.post(headers=ASYNC | {"Cache-Control": "no-store"})
    queue = JobQueue(front.redis, front.options)
    dead = await kill(queue, front.redis, front.options, response.json()["id"])
    await front.client.post(f"/v1/dead-letters/{dead}/replay")
    job, _ = await front.work()
    assert job.caching == "bypass"
    assert (await front.done(front.post()))[0].headers["Cache-Status"] == COMPUTED


async def test_a_webhook_is_told_of_it(redis_url: str) -> None:
    async with web_server() as receiver:
        inbox = Inbox(receiver)
        async with hooked_front(redis_url, inbox, result_cache_mb=1) as front:
            await computed(front)
            response = await front.post(params={"webhook": inbox.url})
            assert response.headers["Cache-Status"] == HIT
            told = (await inbox.next()).event
            assert told["data"]["id"] == response.json()["id"]
            assert told["data"]["state"] == "succeeded"


async def prediction(front: Front, **options: Any) -> httpx.Response:
    headers = {"Content-Type": "image/png"} | options.pop("headers", {})
    return await front.client.post(
        "/v1/models/toy/predict", content=png(), headers=headers, **options
    )


async def predict(front: Front) -> None:
    begun = await front.begin()
    job = Job.model_validate_json(begun.document)
    result = prediction_of(job, [np.float32([1, 5, 2, 0, 3])])
    assert await front.worker.finish(begun, result, computed_digest(job, result))


async def test_a_prediction_again(front: Front) -> None:
    first, _ = await asyncio.gather(prediction(front), predict(front))
    assert first.headers["Cache-Status"] == COMPUTED
    before = {key async for key in front.redis.scan_iter("*")}
    again = await prediction(front, params={"top": "1"})
    assert again.headers["Cache-Status"] == HIT
    (of_first,), (of_again,) = first.json()["results"], again.json()["results"]
    assert of_again["predictions"] == of_first["predictions"][:1]
    assert again.json()["computation"]["cache"] == "result"
    assert again.json()["computation"]["forward_passes"] == 0
    assert again.json()["timings_ms"]["compute"] is None
    assert "compute" not in again.headers["Server-Timing"]
    raw = await prediction(front, params={"as": "npy"})
    assert raw.headers["Cache-Status"] == HIT
    np.testing.assert_array_equal(np.load(io.BytesIO(raw.content)), [[1, 5, 2, 0, 3]])
    assert {key async for key in front.redis.scan_iter("*")} == before, "it leaves nothing behind"
    fresh, _ = await asyncio.gather(
        prediction(front, headers={"Cache-Control": "no-cache"}), predict(front)
    )
    assert fresh.headers["Cache-Status"] == "camserve; fwd=request; stored"
    assert (await front.done(front.post()))[0].headers["Cache-Status"] == COMPUTED


async def test_neighbours_protocols_share_it(front: Front) -> None:
    import base64

    picture = base64.b64encode(png()).decode()
    await computed(front)
    await asyncio.gather(prediction(front), predict(front))
    instances = {"instances": [{"b64": picture}]}
    tensors = {"inputs": [{"name": "i", "shape": [1], "datatype": "BYTES", "data": [picture]}]}
    for path, body in (
        ("/v1/models/toy:explain", instances), ("/v1/models/toy:predict", instances),
        ("/v2/models/toy/explain", tensors), ("/v2/models/toy/infer", tensors),
    ):  # fmt: skip
        response = await front.client.post(path, json=body)
        assert response.status_code == 200, response.text
        assert response.headers["Cache-Status"] == HIT, path


async def test_metrics(front: Front) -> None:
    await computed(front)
    await front.post()
    await front.post()
    await front.done(by_no_cache(front))
    lines = (await front.client.get("/metrics")).text.splitlines()
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line[0] != "#"}
    lookups = "camserve_result_cache_lookups_total"
    assert found[f'{lookups}{{model="toy",result="hit"}}'] == 2
    assert found[f'{lookups}{{model="toy",result="miss"}}'] == 1
    assert found[f'{lookups}{{model="toy",result="bypass"}}'] == 1
    assert found['camserve_result_cache_evictions_total{model="toy"}'] == 0
    assert found['camserve_result_cache_results{model="toy"}'] == 1
    assert 1000 < found['camserve_result_cache_bytes{model="toy"}'] < 3000


async def test_switched_off(redis_url: str) -> None:
    async with running_front(redis_url, result_cache_mb=0) as front:
        await front.publish()
        for _ in range(2):
            response, _, _ = await front.done(front.post())
            assert "Cache-Status" not in response.headers
        await front.registry.remove_worker("w1")
        problem(await front.post(), 503, "no_worker")
