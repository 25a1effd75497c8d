"""The Open Inference Protocol: tensors in, tensors out, in JSON and as bytes behind it."""

from __future__ import annotations

import asyncio
import io
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, JobResult
from camserve.contracts.wire import METADATA_KEY, metadata_of
from camserve.errors import ErrorCode
from tests.app.arrays import SEQUENCE, VOLUME, card, npy, one_map, sample
from tests.app.front import CARD, Front, png, result_of, running_front
from tests.neighbours.calls import (
    EXPLAIN_V2,
    HEADER,
    b64,
    error,
    framed,
    joined,
    tensor,
    tensors,
)

pytestmark = pytest.mark.anyio

PICTURE = png()
LEVELS = np.random.default_rng(3).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
READY = np.random.default_rng(4).normal(size=(2, 3, 32, 32)).astype(np.float32)
BYTES = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [b64(PICTURE)]}


def post(front: Front, *inputs: dict[str, Any], **others: Any) -> Any:
    return front.client.post(EXPLAIN_V2, json={"inputs": list(inputs)} | others)


def post_binary(front: Front, head: dict[str, Any], *parts: bytes, **others: Any) -> Any:
    body, headers = framed({"inputs": [head]} | others, *parts)
    return front.client.post(EXPLAIN_V2, content=body, headers=headers)


@pytest.mark.parametrize("binary", [False, True])
async def test_numbers_are_ready_for_the_model(front: Front, binary: bool) -> None:
    asked = (
        post_binary(front, tensor(READY, binary=True), READY.tobytes())
        if binary
        else post(front, tensor(READY))
    )
    response, job, payload = await front.done(asked)
    assert response.status_code == 200, response.text
    assert len(job.inputs) == 2
    for number in range(2):
        assert np.array_equal(payload[f"input.{number}"], READY[number])


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float64", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool"],
)
@pytest.mark.parametrize("binary", [False, True])
async def test_every_datatype_of_numbers(front: Front, dtype: str, binary: bool) -> None:
    array = (READY[:1] * 3).astype(dtype) if "u" not in dtype else abs(READY[:1] * 3).astype(dtype)
    asked = (
        post_binary(front, tensor(array, binary=True), array.tobytes())
        if binary
        else post(front, tensor(array))
    )
    response, _, payload = await front.done(asked)
    assert response.status_code == 200, response.text
    assert np.array_equal(payload["input.0"], array[0].astype(np.float32))


async def test_bfloat16_is_half_of_a_float32(front: Front) -> None:
    bits = READY[:1].view(np.uint32) >> 16
    head = {"name": "x", "shape": [1, 3, 32, 32], "datatype": "BF16"}
    sized = head | {"parameters": {"binary_data_size": bits.size * 2}}
    response, _, payload = await front.done(post_binary(front, sized, bits.astype("<u2").tobytes()))
    assert response.status_code == 200, response.text
    assert np.array_equal(payload["input.0"], (bits << 16).astype(np.uint32).view(np.float32)[0])
    listed = head | {"data": [0.0] * bits.size}
    assert "binary data" in error(await post(front, listed), 422, "invalid_request")["error"]


async def test_a_list_may_be_nested_as_the_shape(front: Front) -> None:
    nested = tensor(READY) | {"data": READY.tolist()}
    response, _, payload = await front.done(post(front, nested))
    assert response.status_code == 200, response.text
    assert np.array_equal(payload["input.1"], READY[1])


@pytest.mark.parametrize("binary", [False, True])
async def test_pixels_are_the_picture_that_they_are_in_a_file(front: Front, binary: bool) -> None:
    file = io.BytesIO()
    Image.fromarray(LEVELS[1]).save(file, "PNG")
    _, _, expected = await front.done(front.post(file.getvalue()))
    asked = (
        post_binary(front, tensor(LEVELS, binary=True), LEVELS.tobytes())
        if binary
        else post(front, tensor(LEVELS))
    )
    response, job, payload = await front.done(asked)
    assert response.status_code == 200, response.text
    assert np.array_equal(payload["input.1"], expected["input.0"])
    assert tensors(response)["map"].shape == (2, 40, 48)
    href = response.json()["parameters"]["explanation"]
    overlay = await front.client.get(f"{href}/results/1/overlay")
    assert overlay.status_code == 200
    assert Image.open(io.BytesIO(overlay.content)).size == (48, 40)
    assert job.inputs[0].shape == (3, 32, 32)


async def test_gray_and_transparent_pixels(front: Front) -> None:
    gray, alpha = LEVELS[:1, ..., :1], np.concatenate([LEVELS, LEVELS[..., :1]], -1)[:1]
    _, _, of_gray = await front.done(post(front, tensor(gray)))
    _, _, of_colors = await front.done(post(front, tensor(np.repeat(gray, 3, -1))))
    assert np.array_equal(of_gray["input.0"], of_colors["input.0"])
    _, _, of_alpha = await front.done(post(front, tensor(alpha)))
    _, _, opaque = await front.done(post(front, tensor(LEVELS[:1])))
    assert np.array_equal(of_alpha["input.0"], opaque["input.0"])


@pytest.mark.parametrize("shape", [(3, 40, 48), (1, 3, 40, 48), (1, 40, 48, 2), (40, 48)])
async def test_pixels_of_another_shape_say_what_to_do(front: Front, shape: tuple[int, ...]) -> None:
    levels = np.zeros(shape[:1] and (min(shape[0], 4), *shape[1:]), np.uint8)
    document = error(await post(front, tensor(levels)), 422, "invalid_input")
    assert "channels last" in document["error"]


async def test_uint8_of_a_model_of_arrays_are_numbers(front: Front) -> None:
    await front.publish(card(VOLUME))
    array = np.arange(960, dtype=np.uint8).reshape(1, 1, 8, 12, 10)
    response, _, payload = await front.done(post(front, tensor(array)), one_map(2, 3, 2))
    assert np.array_equal(payload["input.0"], array[0].astype(np.float32))
    assert tensors(response)["map"].shape == (1, 8, 12, 10)


@pytest.mark.parametrize("binary", [False, True])
async def test_bytes_are_files(front: Front, binary: bool) -> None:
    _, _, expected = await front.done(front.post(PICTURE))
    files = [PICTURE, npy(READY[0])]
    head = {"name": "input", "shape": [2, 1], "datatype": "BYTES"}
    data = joined(files)
    outputs = [{"name": "score"}]  # their maps differ in size
    asked = (
        post_binary(
            front, head | {"parameters": {"binary_data_size": len(data)}}, data, outputs=outputs
        )
        if binary
        else post(front, head | {"data": [b64(one) for one in files]}, outputs=outputs)
    )
    response, _, payload = await front.done(asked)
    assert tensors(response)["score"].shape == (2,)
    assert np.array_equal(payload["input.0"], expected["input.0"])
    assert np.array_equal(payload["input.1"], READY[0])


async def test_several_tensors_are_one_batch(front: Front) -> None:
    others = tensor(READY) | {"name": "b"}
    response, job, payload = await front.done(post(front, tensor(READY[:1]), others))
    assert response.status_code == 200, response.text
    assert len(job.inputs) == 3
    assert np.array_equal(payload["input.2"], READY[1])
    assert tensors(response)["input_index"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "array"),
    [
        ("SSC", READY.transpose(0, 2, 3, 1)),
        ("BSSC", READY.transpose(0, 2, 3, 1)),
        ("SSCB", READY.transpose(2, 3, 1, 0)),
    ],
)
async def test_a_format_labels_the_dimensions(front: Front, labels: str, array: np.ndarray) -> None:
    asked = post(front, tensor(array), parameters={"format": labels})
    response, _, payload = await front.done(asked)
    assert response.status_code == 200, response.text
    for number in range(2):
        assert np.array_equal(payload[f"input.{number}"], READY[number])


async def test_pixels_take_no_format(front: Front) -> None:
    asked = post(front, tensor(LEVELS), parameters={"format": "SSC"})
    assert error(await asked, 422, "invalid_request")["field"] == "format"


async def test_the_outputs_have_a_row_for_each_input_and_target(front: Front) -> None:
    asked = post(front, tensor(READY), id="mine", parameters={"class_index": [1, 3], "size": "8x6"})
    response, _, _ = await front.done(asked)
    document = response.json()
    assert (document["id"], document["model_name"], document["model_version"]) == (
        "mine",
        "toy",
        "v1",
    )
    found = tensors(response)
    assert list(found) == ["map", "score", "class_index", "class_label", "input_index"]
    assert found["map"].shape == (4, 6, 8)
    assert found["class_index"].tolist() == [1, 3, 1, 3]
    assert found["class_label"] == ["heart, love", "crane bird"] * 2
    assert found["input_index"].tolist() == [0, 0, 1, 1]
    assert found["score"].tolist() == [1] * 4
    href = document["parameters"]["explanation"]
    assert response.headers["Location"] == href
    for number in range(4):
        one = (await front.client.get(f"{href}/results/{number}/map?as=json&size=8x6")).json()
        assert np.array_equal(np.array(one["data"], np.float32), found["map"][number])


async def test_outputs_are_chosen_each_in_its_form(front: Front) -> None:
    outputs = [
        {"name": "class_label", "parameters": {"binary_data": True}},
        {"name": "map", "parameters": {"binary_data": True}},
        {"name": "score"},
    ]
    response, _, _ = await front.done(post(front, tensor(READY), outputs=outputs))
    found = tensors(response)
    assert list(found) == ["class_label", "map", "score"]
    assert response.headers["content-type"] == "application/octet-stream"
    assert found["map"].shape == (2, 32, 32)
    listed, _, _ = await front.done(post(front, tensor(READY), outputs=[{"name": "map"}]))
    assert HEADER not in listed.headers
    assert np.array_equal(tensors(listed)["map"], found["map"])
    binary, _, _ = await front.done(
        post(front, tensor(READY), parameters={"binary_data_output": True})
    )
    assert np.array_equal(tensors(binary)["map"], found["map"])
    assert tensors(binary)["class_label"] == found["class_label"]
    mixed = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "score", "parameters": {"binary_data": False}}],
    }
    response, _, _ = await front.done(post(front, tensor(READY), **mixed))
    assert HEADER not in response.headers


async def test_a_score_that_is_not_finite_is_no_number(front: Front) -> None:
    async def work() -> None:
        begun = await front.begin()
        job = Job.model_validate_json(begun.document)
        made = result_of(job)
        result = JobResult.model_validate_json(metadata_of(made))
        rows = tuple(row.model_copy(update={"score": None}) for row in result.rows)
        text = result.model_copy(update={"rows": rows}).model_dump_json()
        assert await front.worker.finish(begun, save(load(made), metadata={METADATA_KEY: text}))

    response, _ = await asyncio.gather(post(front, tensor(READY[:1])), work())
    assert np.isnan(tensors(response)["score"]).tolist() == [True]


@pytest.mark.parametrize(("dtype", "datatype"), [("float16", "FP16"), ("float64", "FP64")])
@pytest.mark.parametrize("binary", [False, True])
async def test_maps_in_the_precision_that_is_asked_for(
    front: Front, dtype: str, datatype: str, binary: bool
) -> None:
    asked = {"dtype": dtype, "binary_data_output": binary}
    response, _, _ = await front.done(post(front, tensor(READY), parameters=asked))
    found = tensors(response)["map"]
    assert found.dtype == dtype
    plain, _, _ = await front.done(post(front, tensor(READY)))
    assert np.array_equal(found, tensors(plain)["map"].astype(dtype))
    assert f'"datatype":"{datatype}"' in response.content[:400].decode("latin-1")


async def test_what_has_no_class_and_no_number_says_so(front: Front) -> None:
    asked = post(front, tensor(READY[:1]), parameters={"expression": "x[1]"})
    response, _, _ = await front.done(asked, lambda _: np.full((4, 4), np.nan, np.float32))
    found = tensors(response)
    assert found["class_index"].tolist() == [-1]
    assert found["class_label"] == [""]
    assert np.isnan(found["map"]).all()
    assert None in response.json()["outputs"][0]["data"]


async def test_maps_that_differ_in_size_are_refused_before_they_are_computed(front: Front) -> None:
    small = {"name": "a", "shape": [1], "datatype": "BYTES", "data": [b64(png(20, 10))]}
    error(await post(front, BYTES, small), 422, "invalid_request")
    response, _, _ = await front.done(post(front, BYTES, small, outputs=[{"name": "score"}]))
    assert tensors(response)["score"].shape == (2,)
    response, _, _ = await front.done(post(front, BYTES, small, parameters={"size": "16x16"}))
    assert tensors(response)["map"].shape == (2, 16, 16)


async def test_json_has_less_room_than_bytes(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=0.001) as front:
        await front.publish()
        listed, _, _ = await front.done(post(front, BYTES))
        _, height, width = tensors(listed)["map"].shape
        assert height * width <= 1000
        binary, _, _ = await front.done(post(front, BYTES, parameters={"binary_data_output": True}))
        assert tensors(binary)["map"].shape == (1, 40, 48)
        asked = post(front, BYTES, parameters={"size": "original"})
        response, _, _ = await front.done(asked)
        error(response, 413, "too_large")


async def test_tritons_own_parameters(front: Front) -> None:
    ours = {"timeout": 5_000_001, "priority": 2, "sequence_id": 0}
    response, _, _ = await front.done(post(front, BYTES, parameters=ours))
    assert response.status_code == 200, response.text
    href = response.json()["parameters"]["explanation"]
    whole = (await front.client.get(href)).json()
    left = datetime.fromisoformat(whole["deadline_at"]) - datetime.fromisoformat(
        whole["created_at"]
    )
    assert 4 < left.total_seconds() <= 5.002


async def test_a_request_for_another_wait(redis_url: str) -> None:
    async with running_front(redis_url, sync_wait_s=0.3) as front:
        await front.publish()
        document = error(await post(front, BYTES), 504, "wait_exceeded")
        await front.work()
        assert (await front.client.get(document["explanation"])).json()["state"] == "succeeded"


async def test_servers_and_models_say_what_they_are(front: Front) -> None:
    get = front.client.get
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True}
    server = (await get("/v2")).json()
    assert server["name"] == "camserve"
    assert {"binary_tensor_data", "model_repository"} <= set(server["extensions"])
    assert (await get("/v2/models")).json() == {"models": ["toy"]}
    for url in ("/v2/models/toy", "/v2/models/toy/versions/v1"):
        model = (await get(url)).json()
        assert (model["name"], model["versions"]) == ("toy", ["v1"])
        (given,) = model["inputs"]
        assert (given["name"], given["datatype"], given["shape"]) == (
            "input",
            "FP32",
            [-1, 3, 32, 32],
        )
        assert given["parameters"]["format"] == "BCSS"
        kinds = [one["datatype"] for one in given["parameters"]["alternatives"]]
        assert kinds == ["UINT8", "BYTES"]
        assert (await get(f"{url}/ready")).json() == {"name": "toy", "ready": True}
    error(await get("/v2/models/toy/versions/7"), 404, "not_found")
    error(await get("/v2/models/toy/versions/7/ready"), 404, "not_found")
    error(await front.client.post("/v2/models/toy/versions/7/explain", json={}), 404, "not_found")
    error(await get("/v2/models/toi"), 404, "model_not_found")
    error(await get("/v2/models/toi/ready"), 404, "model_not_found")
    error(await get("/v2/models/toy/config"), 404, "not_found")
    response = await front.client.put("/v2/models/toy")
    error(response, 405, "method_not_allowed")


async def test_the_tensors_of_the_metadata_are_what_an_answer_holds(front: Front) -> None:
    await front.publish(CARD.model_copy(update={"output_shape": (5,), "output_format": "BC"}))
    model = (await front.client.get("/v2/models/toy")).json()
    assert model["outputs"][0]["shape"] == [-1, 5]
    response, _, _ = await front.done(post(front, BYTES))
    told = {one["name"]: one for one in model["parameters"]["explain_outputs"]}
    for output in response.json()["outputs"]:
        assert output["datatype"] == told[output["name"]]["datatype"]
        assert len(output["shape"]) == len(told[output["name"]]["shape"])
    await front.publish(card(SEQUENCE))
    model = (await front.client.get("/v2/models/toy")).json()
    assert model["inputs"][0]["shape"] == [-1, 2, -1]
    assert model["parameters"]["explain_outputs"][0]["shape"] == [-1, -1]
    array = sample(SEQUENCE)[None]
    response, _, _ = await front.done(post(front, tensor(array)), one_map(4))
    assert tensors(response)["map"].shape == (1, 9)


async def test_models_that_are_not_ready(front: Front) -> None:
    failure = FailureMessage(code=ErrorCode.MODEL_UNAVAILABLE, detail="no hub")
    updates = {
        "declared": {"name": "declared", "state": "declared", "input": None},
        "broken": {"name": "broken", "state": "unavailable", "problem": failure},
    }
    for update in updates.values():
        await front.publish(CARD.model_copy(update=update), served=False)
    await front.publish(CARD.model_copy(update={"name": "lonely"}), served=False)
    await front.heartbeat("toy", "declared", "broken")
    get = front.client.get
    document = error(await get("/v2/models/broken/ready"), 503, "model_unavailable")
    assert "no hub" in document["error"]
    error(await get("/v2/models/lonely/ready"), 503, "no_worker")
    # a gateway that waited for it to be loaded would never send what loads it
    assert (await get("/v2/models/declared/ready")).json() == {"name": "declared", "ready": True}
    assert (await get("/v2/models/declared")).json()["inputs"] is None
    for name in ("broken", "lonely", "declared", "toy"):  # by the rule of our own API
        ours, theirs = await get(f"/v1/models/{name}"), await get(f"/v2/models/{name}/ready")
        assert ours.status_code == theirs.status_code
    index = (await front.client.post("/v2/repository/index")).json()
    lonely = next(one for one in index if one["name"] == "lonely")
    assert "no live worker serves" in lonely.pop("reason")
    assert {one["name"]: (one["state"], one.get("reason")) for one in index} == {
        "broken": ("UNAVAILABLE", "no hub"),
        "declared": ("READY", "loaded on first use"),
        "lonely": ("UNAVAILABLE", None),
        "toy": ("READY", ""),
    }
    ready = (await front.client.post("/v2/repository/index", json={"ready": True})).json()
    assert [one["name"] for one in ready] == ["declared", "toy"]
    for wrong in ({"ready": "yes"}, {"redy": True}):
        error(await front.client.post("/v2/repository/index", json=wrong), 422, "invalid_request")


@pytest.mark.parametrize("kind", ["load", "unload"])
async def test_models_are_loaded_and_unloaded(redis_url: str, kind: str) -> None:
    url = f"/v2/repository/models/toy/{kind}"
    async with running_front(redis_url, sync_wait_s=0.3) as front:
        await front.publish()
        document = error(await front.client.post(url), 504, "wait_exceeded")
        assert document["model"] == "/v1/models/toy"
        error(await front.client.post(url.replace("toy", "toi")), 404, "model_not_found")
        for wrong in ({"parameters": {"config": "{}"}}, {"parameters": 5}, {"model": "x"}):
            error(await front.client.post(url, json=wrong), 422, "invalid_request")


async def test_a_server_without_workers_is_not_ready(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        error(await front.client.get("/v2/health/ready"), 503, "no_worker")
        assert (await front.client.get("/v2/health/live")).json() == {"live": True}
