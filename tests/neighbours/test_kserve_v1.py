"""KServe V1: instances of every shape, options nested and flat, errors as its client reads them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from camserve.contracts.explanations import ResultSummary
from camserve.contracts.failures import FailureMessage
from camserve.errors import LayerNotFound
from tests.app.arrays import VOLUME, card, coded, one_map, sample
from tests.app.front import Front, png, running_front
from tests.neighbours.calls import EXPLAIN_V1, b64, error

pytestmark = pytest.mark.anyio

PICTURE = png()
READY = np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32)
PICTURES = {
    "b64": {"b64": b64(PICTURE)},
    "base64": {"base64": b64(PICTURE)},
    "named": {"image": {"b64": b64(PICTURE)}},
    "TF-serving": {"image_bytes": {"b64": b64(PICTURE)}},
    "TorchServe": {"data": b64(PICTURE)},
    "ours": {"image": {"base64": b64(PICTURE)}},
    "data URL": {"b64": f"data:image/png;base64,{b64(PICTURE)}"},
}
TENSORS = {
    "lists": READY.tolist(),
    "named lists": {"data": READY.tolist()},
    "ours": {"tensor": {"data": READY.tolist()}},
    "npy": {"tensor": {"npy_base64": coded(READY)}},
}


def post(front: Front, *instances: Any, headers: Any = None, **parameters: Any) -> Any:
    body = {"instances": list(instances)} | ({"parameters": parameters} if parameters else {})
    return front.client.post(EXPLAIN_V1, json=body, headers=headers)


@pytest.mark.parametrize("shape", PICTURES)
async def test_a_picture_comes_as_any_of_its_users_sends_it(front: Front, shape: str) -> None:
    own, _, expected = await front.done(front.post(PICTURE))
    assert own.status_code == 200
    response, job, tensors = await front.done(post(front, PICTURES[shape]))
    assert response.status_code == 200, response.text
    assert np.array_equal(tensors["input.0"], expected["input.0"])
    assert job.output.map == "list"


@pytest.mark.parametrize("shape", TENSORS)
async def test_a_tensor_is_what_the_model_takes(front: Front, shape: str) -> None:
    response, _, tensors = await front.done(post(front, TENSORS[shape]))
    assert response.status_code == 200, response.text
    assert np.array_equal(tensors["input.0"], READY)


async def test_an_explanation_is_a_result_with_its_finished_map(front: Front) -> None:
    response, _, _ = await front.done(
        post(front, {"b64": b64(PICTURE)}, {"b64": b64(png(color=(9, 9, 9)))}, class_index=[1, 3])
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [(one["input"], one["target"]["class_index"]) for one in answer["explanations"]] == [
        *((0, 1), (0, 3)),
        *((1, 1), (1, 3)),
    ]
    assert response.headers["Location"] == answer["href"]
    for number, one in enumerate(answer["explanations"]):
        ResultSummary.model_validate(one)
        url = f"{answer['href']}/results/{number}/map?as=json"
        fetched = (await front.client.get(url)).json()
        assert one["map"]["data"] == fetched["data"]
        assert np.shape(one["map"]["data"]) == (40, 48)
    whole = (await front.client.get(answer["href"])).json()
    assert whole["results"] == answer["explanations"]
    assert {name: whole[name] for name in ("id", "model", "model_version")} == {
        name: answer[name] for name in ("id", "model", "model_version")
    }


FLAT_AND_NESTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"class_index": 3}, {"targets": [{"class_index": 3}]}),
    ({"class_index": "1,3"}, {"targets": [{"class_index": 1}, {"class_index": 3}]}),
    ({"class_index": [1, 3]}, {"targets": [{"class_index": 1}, {"class_index": 3}]}),
    (
        {"class_label": ["arrow", "Crane"]},
        {"targets": [{"class_label": x} for x in ("arrow", "Crane")]},
    ),
    ({"top": 2}, {"targets": [{"top": 2}]}),
    (
        {"reduction": "class_margin", "params": {"class_index": 3, "against": 1}},
        {"targets": [{"reduction": "class_margin", "params": {"class_index": 3, "against": 1}}]},
    ),
    ({"expression": "x[1]"}, {"targets": [{"expression": "x[1]"}]}),
    ({"size": "8x6", "colormap": "jet"}, {"output": {"size": "8x6", "colormap": "jet"}}),
    ({"alpha": 0.25, "color_bar": True}, {"output": {"alpha": 0.25, "color_bar": True}}),
    ({"output": {"size": "8x6"}, "alpha": 0.25}, {"output": {"size": "8x6", "alpha": 0.25}}),
    (
        {"method": "finercam", "method_options": '{"comparisons": 2}'},
        {"method": "finercam", "method_options": {"comparisons": 2}},
    ),
    ({"convention": "captum", "upsampling": None}, {"convention": "captum"}),
    ({"map": "link"}, {"output": {"map": "link"}}),
]


@pytest.mark.parametrize(("flat", "nested"), FLAT_AND_NESTED)
async def test_options_are_flat_as_in_a_form_or_nested_as_in_ours(
    front: Front, flat: dict[str, Any], nested: dict[str, Any]
) -> None:
    jobs = []
    for parameters in (flat, nested):
        response, job, _ = await front.done(post(front, {"b64": b64(PICTURE)}, **parameters))
        assert response.status_code == 200, response.text
        jobs.append(job.model_copy(update={"request_id": None}))
    assert jobs[0] == jobs[1]
    assert jobs[0].output.map == flat.get("map", "list")


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "empty_body", "no body"),
        (b"{", 400, "malformed_request", "not JSON"),
        (b"[]", 400, "malformed_request", "object"),
        ({}, 422, "invalid_request", "instances: is required"),
        ({"instances": []}, 422, "invalid_request", "instances: needs at least 1"),
        ({"instances": {}}, 422, "invalid_request", "instances: must be a list"),
        (
            {"instances": [3]},
            422,
            "invalid_request",
            'instances.0: an instance is a picture, {"b64"',
        ),
        ({"instances": [{}]}, 422, "invalid_request", "instances.0"),
        ({"instances": [{"b64": "QQ==", "image": {}}]}, 422, "invalid_request", "instances.0"),
        ({"instances": [{"b64": "?"}]}, 422, "invalid_request", "instances.0.image.base64 is not"),
        (
            {"instances": [{"b64": 5}]},
            422,
            "invalid_request",
            "instances.0.image.base64: must be a",
        ),
        ({"instances": [{"b64": "QQ==", "key": 1}]}, 422, "invalid_request", "'key'"),
        ({"instances": [{"b64": "QQ=="}]}, 415, "unreadable_image", ""),
        ({"instances": [[[1, 2], [3]]]}, 422, "invalid_input", "not regular"),
        ({"instances": [[1, 2]]}, 422, "invalid_input", "the model takes [3, 32, 32]"),
        ({"instances": [[]]}, 422, "invalid_input", ""),
        ({"instances": [{"b64": "QQ=="}] * 33}, 413, "too_large", "33 inputs are more than 32"),
        ({"instances": [[1]], "signature_name": "x"}, 422, "invalid_request", "signature_name"),
        ({"instances": [[1]], "parameters": [1]}, 422, "invalid_request", "must be an object"),
        (
            {"instances": [[1]], "parameters": {"clas_index": 1}},
            422,
            "invalid_request",
            "'class_index'",
        ),
        ({"instances": [[1]], "parameters": {"class_index": 2.5}}, 422, "invalid_request", "whole"),
        (
            {"instances": [[1]], "parameters": {"class_index": True}},
            422,
            "invalid_request",
            "whole",
        ),
        (
            {"instances": [[1]], "parameters": {"class_index": [[1]]}},
            422,
            "invalid_request",
            "list of values",
        ),
        (
            {"instances": [[1]], "parameters": {"class_index": []}},
            422,
            "invalid_request",
            "empty list",
        ),
        (
            {"instances": [[1]], "parameters": {"url": "x"}},
            422,
            "invalid_request",
            "parameters.url",
        ),
        (
            {"instances": [[1]], "parameters": {"model": "toy"}},
            422,
            "invalid_request",
            "parameters.model",
        ),
        (
            {"instances": [[1]], "parameters": {"inputs": []}},
            422,
            "invalid_request",
            "parameters.inputs",
        ),
        (
            {"instances": [[1]], "parameters": {"as": "png"}},
            422,
            "invalid_request",
            "parameters.as",
        ),
        ({"instances": [[1]], "parameters": {"output": 3}}, 422, "invalid_request", "output"),
        (
            {"instances": [[1]], "parameters": {"output": 3, "size": "8"}},
            422,
            "invalid_request",
            "output",
        ),
        (
            {"instances": [[1]], "parameters": {"output": {"size": "8"}, "size": "8"}},
            *(422, "invalid_request", "size is given twice"),
        ),
        (
            {"instances": [[1]], "parameters": {"targets": [{"top": 1}], "top": 1}},
            *(422, "invalid_request", "targets is given twice"),
        ),
        (
            {"instances": [[1]], "parameters": {"class_index": 9}},
            422,
            "class_index_out_of_range",
            "0 to 4",
        ),
    ],
)
async def test_what_is_wrong_is_said_in_its_form(
    front: Front, body: Any, status: int, code: str, words: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await front.client.post(EXPLAIN_V1, **content)
    assert words in error(response, status, code)["error"]


async def test_the_field_of_a_finding_is_an_instance(front: Front) -> None:
    response = await post(front, {"b64": b64(PICTURE)}, {"b64": 5})
    document = error(response, 422, "invalid_request")
    assert document["field"] == "instances.1.image.base64"
    assert document["errors"][0]["field"] == "instances.1.image.base64"


async def test_errors_of_other_places_have_the_form_too(front: Front) -> None:
    document = error(
        await front.client.post(
            "/v1/models/toys:explain", json={"instances": [{"b64": b64(PICTURE)}]}
        ),
        *(404, "model_not_found"),
    )
    assert document["near"] == ["toy"]
    assert document["request_id"]
    response = await front.client.put(EXPLAIN_V1)
    assert "POST" in response.headers["Allow"].split(", ")
    error(response, 405, "method_not_allowed")
    error(await front.client.post("/v1/models/toy:regress"), 405, "method_not_allowed")
    response = await post(front, {"b64": b64(PICTURE)}, headers={"Idempotency-Key": "k" * 300})
    error(response, 422, "invalid_request")
    response = await front.client.post(
        EXPLAIN_V1, content=b"x", headers={"Content-Encoding": "gzip"}
    )
    error(response, 415, "unsupported_media_type")


async def test_a_body_is_limited_as_everywhere(redis_url: str) -> None:
    async with running_front(redis_url, max_body_mb=0.001) as front:
        await front.publish()
        inside = b'{"instances": [5]}'.ljust(1000)
        error(await front.client.post(EXPLAIN_V1, content=inside), 422, "invalid_request")
        error(await front.client.post(EXPLAIN_V1, content=inside + b" "), 413, "too_large")


async def test_numbers_fit_into_json(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=0.001) as front:
        await front.publish()
        response, _, _ = await front.done(post(front, {"b64": b64(PICTURE)}))
        height, width = np.shape(response.json()["explanations"][0]["map"]["data"])
        assert height * width <= 1000 < (height + 1) * (width + 1)
        document = error(
            await post(front, {"b64": b64(PICTURE)}, size="original"), 413, "too_large"
        )
        assert document["field"] == "output.size"


async def test_a_volume_gives_a_volume(front: Front) -> None:
    await front.publish(card(VOLUME))
    response, _, _ = await front.done(post(front, sample(VOLUME).tolist()), one_map(2, 3, 2))
    assert np.shape(response.json()["explanations"][0]["map"]["data"]) == (8, 12, 10)


async def test_a_queue_that_is_full_says_when_to_come_back(redis_url: str) -> None:
    async with running_front(redis_url, queue_depth=1) as front:
        await front.publish()
        await front.post(headers={"Prefer": "respond-async"})
        response = await post(front, {"b64": b64(PICTURE)})
        document = error(response, 429, "queue_full")
        assert int(response.headers["Retry-After"]) == math.ceil(document["retry_after_s"])


async def test_a_failed_explanation_is_an_error_with_its_address(front: Front) -> None:
    asked = asyncio.create_task(post(front, {"b64": b64(PICTURE)}))
    begun = await front.begin()
    failure = FailureMessage.of(LayerNotFound("stage9", ["stage1"]))
    assert await front.worker.fail(begun, failure.model_dump_json().encode())
    document = error(await asked, 404, "layer_not_found")
    assert document["candidates"] == ["stage1"]
    whole = (await front.client.get(document["explanation"])).json()
    assert whole["state"] == "failed"


async def test_what_outlasts_the_wait_goes_on(redis_url: str) -> None:
    async with running_front(redis_url, sync_wait_s=0.3) as front:
        await front.publish()
        document = error(await post(front, {"b64": b64(PICTURE)}), 504, "wait_exceeded")
        await front.work()
        whole = (await front.client.get(document["explanation"])).json()
        assert whole["state"] == "succeeded"
        assert whole["results"][0]["map"]["data"]


async def test_a_deadline_ends_the_wait(redis_url: str) -> None:
    async with running_front(redis_url, lease_s=5) as front:
        await front.publish()
        response = await post(front, {"b64": b64(PICTURE)}, deadline_ms=100)
        error(response, 504, "deadline_exceeded")


async def test_an_idempotency_key_is_that_of_all_explanations(front: Front) -> None:
    key = {"Idempotency-Key": "once"}
    first, _, _ = await front.done(post(front, {"b64": b64(PICTURE)}, headers=key))
    again = await post(front, {"b64": b64(PICTURE)}, headers=key)
    assert again.json() == first.json()
    error(await post(front, {"b64": b64(PICTURE)}, headers=key, top=2), 409, "idempotency_conflict")


async def test_the_root_says_that_the_server_is_alive(front: Front) -> None:
    """`InferenceRESTClient.is_server_live` of V1 asks there."""
    response = await front.client.get("/")
    assert response.json()["status"] == "alive"
