"""The model's own answer by KServe V1 `:predict` and the Open Inference Protocol's `infer`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from camserve.contracts.jobs import Job
from tests.app.front import CARD, Front, png, prediction_of, running_front
from tests.neighbours.calls import b64, error, framed, joined, tensor, tensors

pytestmark = pytest.mark.anyio

V1, V2 = "/v1/models/toy:predict", "/v2/models/toy/infer"
PICTURE = png()
READY = np.random.default_rng(4).normal(size=(2, 3, 32, 32)).astype(np.float32)
SCORES = np.float32([[0.5, 3, -1, 2, 0], [1, np.nan, np.inf, 2, 1e-30]])


async def done(
    front: Front, asked: Awaitable[httpx.Response], *outputs: np.ndarray, labels: str = "C"
) -> tuple[httpx.Response, Job, dict[str, np.ndarray]]:
    """Await `asked` while answering its job with `outputs`."""

    async def work() -> tuple[Job, dict[str, np.ndarray]]:
        begun = await front.begin()
        job = Job.model_validate_json(begun.document)
        assert await front.worker.finish(begun, prediction_of(job, outputs, labels))
        return job, load(begun.payload)

    response, (job, payload) = await asyncio.gather(asked, work())
    return response, job, payload


async def test_v1_gives_what_the_model_returned(front: Front) -> None:
    body = {"instances": [{"b64": b64(PICTURE)}, READY[0].tolist()]}
    response, job, payload = await done(front, front.client.post(V1, json=body), *SCORES)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["model"], answer["model_version"], job.kind) == ("toy", "v1", "predict")
    assert np.array_equal(np.float32(answer["predictions"][0]), SCORES[0])
    assert answer["predictions"][1] == [1, None, None, 2, pytest.approx(1e-30)]
    assert np.array_equal(payload["input.1"], READY[0])


async def test_v1_of_a_single_number(front: Front) -> None:
    asked = front.client.post(V1, json={"instances": [{"b64": b64(PICTURE)}]})
    response, _, _ = await done(front, asked, np.array(2.5, np.float32), labels="")
    assert response.json()["predictions"] == [2.5]
    await front.publish(CARD.model_copy(update={"task": "regression"}))
    ours = front.client.post("/v1/models/toy/predict", files={"input": PICTURE})
    response, _, _ = await done(front, ours, np.array(2.5, np.float32), labels="")
    assert response.json()["results"][0]["values"] == 2.5


@pytest.mark.parametrize("binary", [False, True])
async def test_v2_gives_one_tensor_with_a_row_an_input(front: Front, binary: bool) -> None:
    document: dict[str, Any] = {"id": "mine", "inputs": [tensor(READY, binary=binary)]}
    document |= {"parameters": {"binary_data_output": binary}}
    parts = [READY.tobytes()] if binary else []
    body, headers = framed(document, *parts)
    asked = front.client.post(V2, content=body, headers=headers)
    response, job, payload = await done(front, asked, *SCORES)
    found = tensors(response)
    assert list(found) == ["output"]
    finite = np.isfinite(SCORES)
    assert np.array_equal(found["output"][finite], SCORES[finite])
    if binary:
        assert np.array_equal(found["output"], SCORES, equal_nan=True)
    else:
        answer = response.json()
        assert (answer["id"], answer["model_version"]) == ("mine", "v1")
    assert np.array_equal(payload["input.1"], READY[1])
    assert job.kind == "predict"


async def test_v2_takes_files_and_pixels(front: Front) -> None:
    levels = np.zeros((1, 40, 48, 3), np.uint8)
    levels[:] = (200, 60, 20)  # the picture
    data = joined([PICTURE])
    file = {"name": "file", "shape": [1], "datatype": "BYTES"}
    file |= {"parameters": {"binary_data_size": len(data)}}
    body, headers = framed({"inputs": [file, tensor(levels, binary=True)]}, data, levels.tobytes())
    asked = front.client.post(V2, content=body, headers=headers)
    response, _, payload = await done(front, asked, *SCORES)
    assert response.status_code == 200, response.text
    assert np.array_equal(payload["input.0"], payload["input.1"])


async def test_outputs_that_cannot_be_stacked(front: Front) -> None:
    asked = front.client.post(V2, json={"inputs": [tensor(READY)]})
    response, _, _ = await done(front, asked, SCORES[0], SCORES[1][:2])
    assert "differ in shape" in error(response, 422, "invalid_request")["error"]


async def test_options_and_outputs_of_a_prediction(front: Front) -> None:
    given = {"precision": "bfloat16", "priority": 7, "timeout": 9_000_000, "format": "CSS"}
    body = {"inputs": [tensor(READY)], "outputs": [{"name": "output"}], "parameters": given}
    response, job, _ = await done(front, front.client.post(V2, json=body), *SCORES)
    assert response.status_code == 200, response.text
    assert job.precision == "bfloat16"
    for parameters, field in (
        ({"top": 3}, "parameters.top"),
        ({"class_index": 3}, "class_index"),
        ({"output": {"size": "8"}}, "output"),
        ({"model": "toy"}, "parameters.model"),
    ):
        v2 = {"inputs": [tensor(READY)], "parameters": parameters}
        document = error(await front.client.post(V2, json=v2), 422, "invalid_request")
        assert document["field"] == field
        v1 = {"instances": READY.tolist(), "parameters": parameters}
        document = error(await front.client.post(V1, json=v1), 422, "invalid_request")
        assert document["field"] == field
    wrong = {"inputs": [tensor(READY)], "outputs": [{"name": "map"}]}
    document = error(await front.client.post(V2, json=wrong), 422, "invalid_request")
    assert "there are output" in document["error"]


async def test_json_has_less_room_than_bytes(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=0.001) as front:
        await front.publish()
        for size, status in ((1000, 200), (1001, 413)):
            output = np.zeros(size, np.float32)
            listed = front.client.post(V2, json={"inputs": [tensor(READY[:1])]})
            response, _, _ = await done(front, listed, output)
            assert response.status_code == status
            instances = front.client.post(V1, json={"instances": [READY[0].tolist()]})
            response, _, _ = await done(front, instances, output)
            assert response.status_code == status
        error(response, 413, "too_large")
        asked = {"inputs": [tensor(READY[:1])], "parameters": {"binary_data_output": True}}
        response, _, _ = await done(front, front.client.post(V2, json=asked), output)
        assert tensors(response)["output"].shape == (1, 1001)


async def test_a_deadline_ends_the_wait(redis_url: str) -> None:
    async with running_front(redis_url, lease_s=5) as front:
        await front.publish()
        body = {"instances": [READY[0].tolist()], "parameters": {"deadline_ms": 100}}
        error(await front.client.post(V1, json=body), 504, "deadline_exceeded")


async def test_versions_and_names(front: Front) -> None:
    body = {"inputs": [tensor(READY)], "model_name": "toy"}
    url = "/v2/models/toy/versions/v1/infer"
    response, _, _ = await done(front, front.client.post(url, json=body), *SCORES)
    assert response.status_code == 200
    error(await front.client.post(url.replace("v1", "v2"), json=body), 404, "not_found")
    error(await front.client.post(V2, json=body | {"model_name": "toi"}), 422, "invalid_request")
    error(
        await front.client.post("/v2/models/toi/infer", json={"inputs": [tensor(READY)]}),
        404,
        "model_not_found",
    )
