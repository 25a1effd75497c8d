"""Arrays through HTTP: in any order and in every body, to the worker as they came."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camserve.contracts.input_specs import PictureSpec, TensorSpec
from tests.app.arrays import (
    RANDOM,
    SEQUENCE,
    URL,
    VIDEO,
    VOLUME,
    WAVE,
    ask,
    card,
    coded,
    job_axes,
    loaded,
    npy,
    one_map,
    sample,
)
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio


# every body


@pytest.mark.parametrize("body", ["lists", "npy_base64", "form", "raw"])
@pytest.mark.parametrize("spec", [SEQUENCE, WAVE, VOLUME, VIDEO], ids=lambda spec: spec.format)
async def test_the_same_bytes_reach_the_worker_from_every_body(
    front: Front, spec: TensorSpec, body: str
) -> None:
    await front.publish(card(spec))
    array = sample(spec)
    inputs = {"lists": {"data": array.tolist()}, "npy_base64": {"npy_base64": coded(array)}}
    if body in inputs:
        document = {"model": "toy", "inputs": [{"tensor": inputs[body]}]}
        asked = front.client.post(URL, json=document)
    elif body == "form":
        files = {"input": ("a.npy", npy(array), "application/x-npy")}
        asked = front.client.post(URL, data={"model": "toy"}, files=files)
    else:
        headers = {"Content-Type": "application/x-npy"}
        asked = front.post(npy(array), headers=headers)
    response, job, tensors = await front.done(asked, one_map(*[3] * job_axes(spec)))
    assert response.status_code == 200, response.text
    assert list(tensors) == ["input.0"]
    assert tensors["input.0"].dtype == np.float32
    assert tensors["input.0"].tobytes() == array.tobytes()
    assert job.inputs[0].shape == tensors["input.0"].shape == array.shape
    assert job.inputs[0].name == ("a.npy" if body == "form" else None)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, ">f4", bool])
async def test_numbers_of_any_kind(front: Front, dtype: Any) -> None:
    await front.publish(card(SEQUENCE))
    array = (RANDOM.random((2, 9)) * 100).astype(dtype)
    _, _, tensors = await ask(front, array)
    np.testing.assert_array_equal(tensors["input.0"], array.astype(np.float32))


async def test_each_input_may_have_a_format_of_its_own(front: Front) -> None:
    await front.publish(card(VIDEO))
    truth = sample(VIDEO)  # TCSS
    lists = truth.transpose(2, 3, 1, 0).tolist()  # SSCT
    document = {
        "model": "toy",
        "format": "CTSS",
        "inputs": [
            {"tensor": {"npy_base64": coded(truth.transpose(1, 0, 2, 3))}},
            {"tensor": {"data": lists}, "format": "SSCT"},
            {"tensor": {"npy_base64": coded(truth)}, "format": "TCSS"},
        ],
    }
    asked = front.client.post(URL, json=document)
    response, _, tensors = await front.done(asked, one_map(3, 4, 5))
    for number in range(3):
        assert tensors[f"input.{number}"].tobytes() == truth.tobytes()
    # and each has its map in its own order
    signed = one_map(3, 4, 5)(0)
    for number, axes in enumerate([(0, 1, 2), (1, 2, 0), (0, 1, 2)]):
        href = response.json()["results"][number]["map"]["href"]
        found = loaded(await front.client.get(href, params={"size": "feature"}))
        np.testing.assert_allclose(
            found, np.maximum(signed * (number + 1), 0).transpose(axes), rtol=1e-6
        )


async def test_a_model_of_pictures_takes_arrays_in_any_order_and_pictures_beside_them(
    front: Front,
) -> None:
    array = RANDOM.random((32, 32, 3)).astype(np.float32)
    document = {
        "model": "toy",
        "format": "SSC",
        "inputs": [
            {"tensor": {"npy_base64": coded(array)}},
            {"image": {"base64": base64.b64encode(png()).decode()}},
            {"tensor": {"data": [array.tolist()]}, "format": "BSSC"},
        ],
    }
    _, _, tensors = await front.done(front.client.post(URL, json=document))
    for name in ("input.0", "input.2"):
        assert tensors[name].tobytes() == np.ascontiguousarray(array.transpose(2, 0, 1)).tobytes()
    assert tensors["input.1"].shape == (3, 32, 32)


async def test_a_model_of_pictures_with_channels_last(front: Front) -> None:
    await front.publish(card(PictureSpec(height=32, width=32, format="BSSC")))
    picture = np.asarray(Image.open(io.BytesIO(png(32, 32))))
    array = (picture / np.float32(255)).astype(np.float32).transpose(2, 0, 1)
    files = [("input", png(32, 32)), ("input", npy(array))]
    asked = front.client.post(URL, data={"model": "toy", "format": "CSS"}, files=files)
    _, _, tensors = await front.done(asked)
    assert tensors["input.0"].shape == (32, 32, 3)
    np.testing.assert_allclose(tensors["input.0"] / 255, tensors["input.1"], atol=1e-6)


# a dimension B


async def test_a_dimension_b_is_several_inputs_with_names(front: Front) -> None:
    await front.publish(card(SEQUENCE))
    array = RANDOM.normal(size=(9, 3, 2)).astype(np.float32)  # TBC
    files = [("input", ("long.npy", npy(array))), ("input", ("single.npy", npy(array[:, :1])))]
    asked = front.client.post(
        URL, data={"model": "toy", "format": "TBC", "class_index": "0,1"}, files=files
    )
    response, job, tensors = await front.done(asked, one_map(3))
    names = ["long.npy[0]", "long.npy[1]", "long.npy[2]", "single.npy"]
    assert [one.name for one in job.inputs] == names
    for number in range(4):
        expected = array[:, number % 3].T
        np.testing.assert_array_equal(tensors[f"input.{number}"], expected)
    results = response.json()["results"]
    assert [(r["input"], r["input_name"]) for r in results] == [
        (number, names[number]) for number in (0, 0, 1, 1, 2, 2, 3, 3)
    ]


async def test_a_dimension_b_counts_against_the_limit(redis_url: str) -> None:
    async with running_front(redis_url, max_inputs=3) as front:
        await front.publish(card(SEQUENCE))
        many = np.zeros((1000, 2, 9), np.uint8)
        headers = {"Content-Type": "application/x-npy"}
        response = await front.post(npy(many), params={"format": "BCT"}, headers=headers)
        document = problem(response, 413, "too_large")
        assert "1000 inputs, more than 3" in document["detail"]
        assert (document["limit"], document["input"]) == (3, 0)
        # and so do several of them together
        files = [("input", ("a.npy", npy(many[:2]))), ("input", ("b.npy", npy(many[:2])))]
        response = await front.client.post(URL, data={"model": "toy", "format": "BCT"}, files=files)
        assert "4 inputs are more than 3" in problem(response, 413, "too_large")["detail"]
        response, job, _ = await ask(front, many[:3], format="BCT")
        assert len(job.inputs) == 3


# normalisation


async def test_mean_and_deviation_of_each_channel(front: Front) -> None:
    spec = TensorSpec(format="BTC", shape=(0, 3), mean=(1.0, -2.0, 0.5), std=(2.0, 4.0, 0.25))
    await front.publish(card(spec))
    array = RANDOM.normal(size=(3, 9)).astype(np.float32)
    _, _, tensors = await ask(front, array, format="CT")
    expected = (array - np.array(spec.mean)[:, None]) / np.array(spec.std)[:, None]
    np.testing.assert_allclose(tensors["input.0"], expected.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [VOLUME, WAVE], ids=lambda spec: spec.format)
async def test_one_mean_and_deviation_for_all(front: Front, spec: TensorSpec) -> None:
    await front.publish(card(spec.model_copy(update={"mean": (3.0,), "std": (0.5,)})))
    array = sample(spec)
    _, _, tensors = await ask(front, array, maps=one_map(*[3] * job_axes(spec)))
    np.testing.assert_allclose(tensors["input.0"], (array - 3) / 0.5, rtol=1e-5, atol=1e-6)
