"""What is no array for the model is refused, with its place and the way out."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from camserve.contracts.input_specs import InputSpec, TensorSpec
from tests.app.arrays import SEQUENCE, URL, VOLUME, WAVE, card, npy
from tests.app.front import Front, png, problem

pytestmark = pytest.mark.anyio

HOSTILE: dict[str, tuple[InputSpec, Any, dict[str, Any], int, str, str]] = {
    "a picture for a model of arrays": (VOLUME, png(), {}, 415, "unreadable_image",
        "takes arrays of dimensions CSSS, and this is no .npy file"),
    "text for a model of arrays": (WAVE, b"1,2,3", {}, 415, "unreadable_image", "numpy.save"),
    "nine dimensions": (VOLUME, npy(np.zeros([1] * 9)), {}, 422, "invalid_input", "no model takes"),
    "eight dimensions": (VOLUME, npy(np.zeros([1] * 8)), {}, 422, "invalid_input", "model takes"),
    "eight labels": (VOLUME, npy(np.zeros([1] * 8)), {"format": "BCSSSTUU"}, 422, "invalid_input",
        "its inputs have CSSS"),
    "nine labels": (VOLUME, npy(np.zeros([1] * 9)), {"format": "BCSSSTUUU"}, 422, "invalid_request",
        "one for each dimension"),
    "no format": (VOLUME, npy(np.zeros((8, 12, 10))), {"format": ""}, 422, "invalid_request",
        "one for each dimension"),
    "a size of zero": (SEQUENCE, npy(np.zeros((2, 0))), {}, 422, "invalid_input", r"[2, 0]"),
    "no channel": (SEQUENCE, npy(np.zeros((0, 9))), {}, 422, "invalid_input", "[0, 9]"),
    "not a number": (SEQUENCE, npy(np.array([[0, np.nan, 1], [0, 0, 0]])), {}, 422,
        "invalid_input", "the first at [0, 1]"),
    "infinite once normalised": (TensorSpec(format="BT", shape=(0,), std=(1e-30,)),
        npy(np.array([0, 1e30])), {}, 422, "invalid_input", "the first at [1]"),
    "objects": (WAVE, npy(np.ones(3, np.float32)).replace(b"<f4", b"|O8"), {}, 422,
        "invalid_input", "real numbers, not object"),
    "complex": (WAVE, npy(np.zeros(3, complex)), {}, 422, "invalid_input", "real numbers"),
    "an archive": (WAVE, b"PK\x03\x04" + b"0" * 50, {}, 415, "unreadable_image", "not .npz"),
    "too many megabytes": (WAVE, npy(np.zeros(3_000_000)), {}, 413, "too_large", "20 MB"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_no_input_is_refused_with_the_way_out(front: Front, case: str) -> None:
    spec, content, params, status, code, told = HOSTILE[case]
    await front.publish(card(spec))
    headers = {"Content-Type": "application/octet-stream"}
    response = await front.post(content, params=params, headers=headers)
    assert told in problem(response, status, code)["detail"]
    assert not await front.worker.claim(["toy"], 1, 0.02)


LISTS: dict[str, tuple[Any, str]] = {
    "ragged": ([[0.0] * 9, [0.0] * 8], "data[1] must be a list of 9"),
    "text": ([["0"] * 9] * 2, "data[0][0] is not one"),
    "null": ([[0.0] * 9, [0.0] * 8 + [None]], "data[1][8] is not one"),
    "deep": (json.loads("[" * 60 + "]" * 60), "no model takes that"),
    "empty": ([], "no model takes that"),
    "a mixture": ([[0.0] * 9, 3.0], "data[1] must be a list of 9"),
    "huge": ([[1e300] * 9] * 2, "NaN or infinite"),
}


@pytest.mark.parametrize("case", LISTS)
async def test_lists_that_are_no_array_are_told_by_their_place(front: Front, case: str) -> None:
    await front.publish(card(SEQUENCE))
    data, told = LISTS[case]
    good = {"tensor": {"data": [[0.0] * 9] * 2}}
    document = {"model": "toy", "inputs": [good, {"tensor": {"data": data}}]}
    response = await front.client.post(URL, json=document)
    found = problem(response, 422, "invalid_input")
    assert told in found["detail"]
    assert found["input"] == 1


async def test_the_format_of_one_input_is_named_with_it(front: Front) -> None:
    await front.publish(card(SEQUENCE))
    tensor = {"data": [[0.0] * 9] * 2}
    for wrong, field in (
        ("tc", "inputs.1.format"),
        ("", "inputs.1.format"),
        (3, "inputs.1.format"),
    ):
        document = {
            "model": "toy",
            "inputs": [{"tensor": tensor}, {"tensor": tensor, "format": wrong}],
        }
        found = problem(await front.client.post(URL, json=document), 422, "invalid_request")
        assert found["field"] == field
    document = {"model": "toy", "inputs": [{"tensor": tensor, "format": "CS"}]}
    found = problem(await front.client.post(URL, json=document), 422, "invalid_input")
    assert re.search("inputs have CT .channels, time.", found["detail"])
    assert (found["input"], found["field"]) == (0, "format")
