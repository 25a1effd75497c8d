"""Predictions at the front end: bodies, refusals, deadlines, callers who go; the test works."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors.numpy import load
from starlette.types import Message

from camserve.broker import Begun, keys
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.input_specs import TensorSpec
from camserve.contracts.jobs import Job
from camserve.contracts.predictions import Prediction
from camserve.contracts.states import State
from tests.app.front import CARD, Front, png, prediction_of, problem, running_front

pytestmark = pytest.mark.anyio

URL = "/v1/models/toy/predict"
SCORES = np.float32([0.5, 3, -1, 2, 0])
DENSE = CARD.model_copy(update={"task": "segmentation"})


async def work(front: Front, *outputs: np.ndarray, labels: str = "C") -> tuple[Job, Any]:
    """Do one prediction, or give every input the same scores; its document and its tensors."""
    begun = await front.begin()
    job = Job.model_validate_json(begun.document)
    made: Sequence[np.ndarray] = outputs or [SCORES] * len(job.inputs)
    assert await front.worker.finish(begun, prediction_of(job, made, labels))
    return job, load(begun.payload)


async def done(
    front: Front, asked: Any, *outputs: np.ndarray, labels: str = "C"
) -> tuple[httpx.Response, Job, Any]:
    response, (job, tensors) = await asyncio.gather(asked, work(front, *outputs, labels=labels))
    assert response.status_code == 200, response.text
    return response, job, tensors


async def keys_of_jobs(redis: Redis) -> list[bytes]:
    found = [key async for key in redis.scan_iter("cam:{toy}:*") if b":stream:" not in key]
    of_the_model = {keys.pace("toy").encode(), keys.totals("toy").encode()}
    return [key for key in found if key not in of_the_model]


async def test_the_best_classes_of_a_picture(front: Front) -> None:
    asked = front.client.post(URL, files={"input": ("cat.png", png())}, data={"top": "2"})
    response, job, _ = await done(front, asked)
    assert (job.kind, job.model, job.model_version) == ("predict", "toy", "v1")
    assert (job.targets, job.inputs[0].name) == ((), "cat.png")
    answer = Prediction.model_validate(response.json())
    (only,) = answer.results
    assert (only.input, only.input_name, only.output_shape) == (0, "cat.png", (5,))
    assert only.values is None
    best = [(p.class_index, p.class_label, p.score) for p in only.predictions]
    assert best == [(1, "heart, love", 3), (3, "crane bird", 2)]
    softmax = np.exp(SCORES.astype(float)) / np.exp(SCORES.astype(float)).sum()
    assert [p.probability for p in only.predictions] == pytest.approx([softmax[1], softmax[3]])
    assert (answer.model, answer.model_version) == ("toy", "v1")
    assert (answer.computation.device, answer.computation.forward_passes) == ("cpu", 1)
    assert answer.timings_ms.compute == 1.5
    assert "prepare;dur=" in response.headers["Server-Timing"]


async def test_three_bodies_give_the_same_input(front: Front) -> None:
    picture = png(color=(10, 200, 90))
    document = {"inputs": [{"image": {"base64": base64.b64encode(picture).decode()}}], "top": 3}
    bodies = [
        front.client.post(URL, json=document),
        front.client.post(URL, files={"input": picture}, data={"top": "3"}),
        front.client.post(
            URL, content=picture, params={"top": 3}, headers={"Content-Type": "image/png"}
        ),
    ]
    answers = [await done(front, body) for body in bodies]
    first = answers[0][2]["input.0"]
    assert first.shape == (3, 32, 32)
    for response, job, tensors in answers:
        assert set(tensors) == {"input.0"}
        assert np.array_equal(tensors["input.0"], first)
        assert job.inputs[0].geometry == answers[0][1].inputs[0].geometry
        assert len(response.json()["results"][0]["predictions"]) == 3


async def test_options_reach_the_worker(front: Front) -> None:
    await front.publish()
    params = {"precision": "bfloat16", "execution": "cpu", "priority": "bulk"}
    asked = front.client.post(URL, params=params, content=png(), headers={"X-Request-ID": "r-1"})

    async def worker() -> None:
        begun = await front.begin()
        assert begun.claim.lane == "bulk@cpu"
        job = Job.model_validate_json(begun.document)
        assert (job.precision, job.request_id) == ("bfloat16", "r-1")
        assert await front.worker.finish(begun, prediction_of(job, [SCORES]))

    response, _ = await asyncio.gather(asked, worker())
    assert response.json()["computation"]["precision"] == "bfloat16"


async def test_nothing_is_left_behind(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the result, which may be large, nor a picture that nobody will draw on."""

    def drawn(*_: object) -> bytes:
        raise AssertionError("a picture to draw on is made")

    monkeypatch.setattr("app.inputs.display_copy", drawn)
    await done(front, front.client.post(URL, content=png()))
    assert await keys_of_jobs(front.redis) == []


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"params": {"topp": 1}}, 422, "invalid_request", "did you mean 'top'?"),
    ({"params": {"class_index": 1}}, 422, "invalid_request", "unknown field 'class_index'"),
    ({"params": {"model": "toy"}}, 422, "invalid_request", "the address names the model"),
    ({"json": {"model": "toy"}}, 422, "invalid_request", "model is part of the address"),
    ({"json": {"inputs": [], "targets": []}}, 422, "invalid_request", "unknown field 'targets'"),
    ({"json": {"inputs": []}}, 422, "invalid_request", "there is no input"),
    ({"params": {"top": 6}}, 422, "invalid_request", "only 5 classes"),
    ({"params": {"top": 0}}, 422, "invalid_request", "at least 1"),
    ({"params": {"top": 1001}}, 422, "invalid_request", "at most 1000"),
    ({"params": {"top": "two"}}, 422, "invalid_request", "not a whole number"),
    ({"params": {"top": 2, "as": "npy"}}, 422, "invalid_request", "leave it out"),
    ({"params": {"as": "png"}}, 406, "not_acceptable", "json, npy"),
    ({"params": {"execution": "cuda"}}, 503, "no_worker", "workers on cpu"),
    ({"params": {"format": "SSC"}}, 422, "invalid_request", "no input is one"),
    ({"files": {"input": png(), "mask": png()}}, 422, "invalid_request", "file field 'mask'"),
    ({"files": [("input", png())] * 33}, 413, "too_large", "33 inputs are more than 32"),
    ({"content": b"no picture"}, 415, "unreadable_image", "not"),
    ({"content": b""}, 400, "empty_body", "no body"),
]


@pytest.mark.parametrize(("options", "status", "code", "remedy"), REFUSED)
async def test_what_is_refused(
    front: Front, options: dict[str, Any], status: int, code: str, remedy: str
) -> None:
    given = options if {"json", "files", "content"} & set(options) else options | {"content": png()}
    assert remedy in problem(await front.client.post(URL, **given), status, code)["detail"]
    assert await keys_of_jobs(front.redis) == []


async def test_a_model_that_is_not_there(front: Front) -> None:
    response = await front.client.post("/v1/models/toi/predict", content=png())
    assert problem(response, 404, "model_not_found")["near"] == ["toy"]


async def test_32_inputs_pass(front: Front) -> None:
    asked = front.client.post(URL, files=[("input", png(4, 4))] * 32)
    response, job, _ = await done(front, asked)
    assert len(response.json()["results"]) == len(job.inputs) == 32


async def test_a_segmentation_names_the_classes_that_are_there(front: Front) -> None:
    await front.publish(DENSE)
    x = np.zeros((5, 2, 2), np.float32)
    x[1, 0, 0], x[4] = 5, [[1, 1], [1, 1]]
    asked = front.client.post(URL, content=png())
    response, _, _ = await done(front, asked, x, labels="CSS")
    (only,) = response.json()["results"]
    assert only["output_shape"] == [5, 2, 2]
    shares = {one["class_index"]: one["share"] for one in only["predictions"]}
    assert shares == {4: 0.75, 1: 0.25}


@pytest.mark.parametrize("task", ["regression", "embedding"])
async def test_numbers_of_a_regression_and_of_an_embedding(front: Front, task: str) -> None:
    await front.publish(CARD.model_copy(update={"task": task}))
    vector = np.float32([0.1, np.nan, -3])
    response, _, _ = await done(front, front.client.post(URL, content=png()), vector)
    (only,) = response.json()["results"]
    assert only["predictions"] == []
    assert only["values"] == [pytest.approx(0.1), None, -3]
    problem(await front.client.post(URL, content=png(), params={"top": 1}), 422, "invalid_request")


async def test_more_numbers_than_json_holds(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=1e-5) as front:  # ten
        await front.publish(CARD.model_copy(update={"task": "embedding"}))
        files = [("input", png())] * 2
        five = np.zeros(5, np.float32)
        await done(front, front.client.post(URL, files=files), five, five)
        six = np.zeros(6, np.float32)
        response, _ = await asyncio.gather(
            front.client.post(URL, files=files), work(front, five, six)
        )
        assert "application/x-npy" in problem(response, 413, "too_large")["detail"]
        accept = {"Accept": "application/x-npy"}
        asked = front.client.post(URL, files=files, headers=accept)
        response, _, _ = await done(front, asked, six, six)
        assert np.load(io.BytesIO(response.content)).shape == (2, 6)


async def test_raw_outputs_stacked(front: Front) -> None:
    files = [("input", png())] * 2
    asked = front.client.post(URL, files=files, params={"as": "npy"})
    response, _, _ = await done(front, asked, SCORES, SCORES + 1)
    assert response.headers["content-type"] == "application/x-npy"
    raw = np.load(io.BytesIO(response.content))
    assert raw.dtype == np.float32
    assert np.array_equal(raw, [SCORES, SCORES + 1])
    response, _ = await asyncio.gather(
        front.client.post(URL, files=files, params={"as": "npy"}),
        work(front, SCORES, SCORES[:2]),
    )
    problem(response, 422, "invalid_request")


async def test_arrays_with_labels_and_a_batch(front: Front) -> None:
    spec = TensorSpec(format="BCT", shape=(2, 0))
    await front.publish(CARD.model_copy(update={"input": spec}))
    document = {"inputs": [{"tensor": {"data": [[[1, 2], [3, 4], [5, 6]]] * 2}}], "format": "BTC"}
    response, _, tensors = await done(front, front.client.post(URL, json=document))
    assert tensors["input.1"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert [one["input"] for one in response.json()["results"]] == [0, 1]


async def test_the_deadline_is_the_end_of_the_wait(front: Front) -> None:
    response = await front.client.post(URL, content=png(), params={"deadline_ms": 150})
    assert "prediction" in problem(response, 504, "deadline_exceeded")["detail"]
    assert not await front.worker.claim(["toy"], 1, 0.05), "nobody is waiting for it"


async def test_a_deadline_that_passes_while_it_runs(front: Front) -> None:
    asked = asyncio.create_task(front.client.post(URL, content=png(), params={"deadline_ms": 300}))
    begun = await front.begin()
    problem(await asked, 504, "deadline_exceeded")
    assert await front.worker.is_canceled(begun)
    job = Job.model_validate_json(begun.document)
    await front.worker.finish(begun, prediction_of(job, [SCORES]))  # late, and refused or dropped
    assert not [key for key in await keys_of_jobs(front.redis) if b":out:" in key]


async def test_a_failure_is_the_answer(front: Front) -> None:
    async def worker() -> None:
        begun = await front.begin()
        await front.worker.fail(begun, b'{"code": "invalid_input", "detail": "too small"}')

    response, _ = await asyncio.gather(front.client.post(URL, content=png()), worker())
    assert problem(response, 422, "invalid_input")["detail"] == "too small"


async def test_a_job_that_redis_lost_is_handed_in_again(front: Front) -> None:
    asked = asyncio.create_task(front.client.post(URL, content=png()))
    await front.begin()
    await front.redis.flushall()
    await front.publish()
    await work(front)
    assert (await asked).status_code == 200


async def test_a_prediction_is_no_explanation(front: Front) -> None:
    asked = asyncio.create_task(front.client.post(URL, content=png()))
    begun = await front.begin()
    problem(
        await front.client.get(f"/v1/explanations/{begun.job_id}"), 404, "explanation_not_found"
    )
    deleted = await front.client.delete(f"/v1/explanations/{begun.job_id}")
    problem(deleted, 404, "explanation_not_found")
    job = Job.model_validate_json(begun.document)
    await front.worker.finish(begun, prediction_of(job, [SCORES]))
    assert (await asked).status_code == 200


class HangingUp(httpx.AsyncBaseTransport):
    """A client that goes as soon as a worker has its job."""

    def __init__(self, app: Any, gone: asyncio.Event) -> None:
        self.app, self.gone = app, gone

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = [await request.aread()]

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            pass

        scope = {
            "type": "http", "method": "POST", "path": request.url.path, "raw_path": b"",
            "query_string": b"", "headers": [(b"content-type", b"image/png")],
            "http_version": "1.1", "scheme": "http", "server": ("front", 80), "client": None,
        }  # fmt: skip
        await self.app(scope, receive, send)
        return httpx.Response(200)


@pytest.mark.parametrize("running", [False, True])
async def test_who_hangs_up_takes_the_job_along(front: Front, running: bool) -> None:
    gone = asyncio.Event()
    transport = front.client._transport
    assert isinstance(transport, httpx.ASGITransport)
    async with httpx.AsyncClient(transport=HangingUp(transport.app, gone)) as client:
        asked = asyncio.create_task(client.post(f"http://front{URL}", content=png()))
        begun: Begun | None = await front.begin() if running else None
        if begun is None:
            async with asyncio.timeout(60):
                while not await keys_of_jobs(front.redis):  # noqa: ASYNC110 - the front end adds it
                    await asyncio.sleep(0.01)
        gone.set()
        async with asyncio.timeout(60):
            await asked
    if begun is not None:
        assert await front.worker.is_canceled(begun)
    else:
        (key,) = [k for k in await keys_of_jobs(front.redis) if b":job:" in k]
        assert await front.redis.hget(key, "state") == State.CANCELED.encode()
        assert not await front.worker.claim(["toy"], 1, 0.05)


async def test_it_is_loaded_on_first_use(front: Front) -> None:
    declared: ResolvedCard = CARD.model_copy(update={"state": "declared", "input": None})
    await front.publish(declared)

    async def worker() -> None:
        begun = await front.begin()
        assert Job.model_validate_json(begun.document).kind == "load"
        await front.publish()
        await front.worker.finish(begun, b"")
        await work(front)

    response, _ = await asyncio.gather(front.client.post(URL, content=png()), worker())
    assert response.status_code == 200
