"""`format` is told from what was sent, and refused where it labels nothing."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from camserve.contracts.input_specs import PictureSpec
from tests.app.arrays import URL, card, coded
from tests.app.front import Front, png, problem

pytestmark = pytest.mark.anyio

PICTURE = {"image": {"base64": base64.b64encode(png()).decode()}}


async def test_a_wrong_format_is_named_with_what_it_makes_of_the_shape(front: Front) -> None:
    """Not: `give the format`."""
    await front.publish(card(PictureSpec(height=128, width=128)))
    tensor = {"npy_base64": coded(np.zeros((3, 128, 128), np.float32))}
    for document in (
        {"inputs": [{"tensor": tensor}], "format": "SSC"},
        {"inputs": [{"tensor": tensor, "format": "SSC"}]},
    ):
        response = await front.client.post(URL, json={"model": "toy", **document})
        found = problem(response, 422, "invalid_input")
        assert found["field"] == "format"
        detail = found["detail"]
        assert "read as format SSC" in detail
        assert "[3, 128, 128] (height, width, channels)" in detail
        assert "takes [3, 128, 128] (channels, height, width)" in detail
        assert "leave it out" in detail
        assert "give the format" not in detail


@pytest.mark.parametrize("labels", ["SSC", "BSSC"])
async def test_a_format_of_pictures_alone_is_refused(front: Front, labels: str) -> None:
    asks = [
        front.post(params={"format": labels}),
        front.client.post(URL, json={"model": "toy", "inputs": [PICTURE], "format": labels}),
        front.client.post(
            URL, data={"model": "toy", "format": labels}, files=[("input", png())] * 2
        ),
    ]
    for ask in asks:
        found = problem(await ask, 422, "invalid_request")
        assert found["field"] == "format"
        assert "leave it out" in found["detail"]


@pytest.mark.parametrize("labels", ["BBB", "CSSSS", "TT"])
async def test_a_format_that_means_nothing_is_refused_whatever_the_inputs(
    front: Front, labels: str
) -> None:
    tensor = {"tensor": {"data": [[[0.0] * 32] * 32] * 3}, "format": "CSS"}
    for inputs in ([PICTURE], [tensor], [PICTURE, tensor]):
        document = {"model": "toy", "inputs": inputs, "format": labels}
        found = problem(await front.client.post(URL, json=document), 422, "invalid_request")
        assert "more than" in found["detail"]


async def test_pictures_beside_arrays_have_none(front: Front) -> None:
    array = {"tensor": {"data": np.zeros((32, 32, 3)).tolist()}}
    document = {"model": "toy", "inputs": [PICTURE, array], "format": "SSC"}
    response, _, _ = await front.done(front.client.post(URL, json=document))
    assert response.status_code == 200, response.text
