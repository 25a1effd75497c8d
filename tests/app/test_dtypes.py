"""The numbers of an array in the precision that was asked for."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.front import Front, problem

pytestmark = pytest.mark.anyio

THIRDS = np.arange(-4, 12, dtype=np.float32).reshape(4, 4) / 3
DTYPES = ("float32", "float64", "float16")


def loaded(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


async def explained(front: Front, maps: Any = THIRDS, **fields: Any) -> httpx.Response:
    response, _, _ = await front.done(front.post(params=fields), lambda _: maps)
    return response


@pytest.mark.parametrize("dtype", DTYPES)
async def test_later_as_npy_and_as_json(front: Front, dtype: str) -> None:
    href = f"{(await explained(front)).headers['Location']}/results/0/map?size=feature"
    whole = loaded(await front.client.get(href))
    assert whole.dtype == np.float32
    array = loaded(await front.client.get(f"{href}&dtype={dtype}"))
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, whole.astype(dtype))
    listed = (await front.client.get(f"{href}&dtype={dtype}&as=json")).json()
    assert listed["dtype"] == dtype
    assert np.array(listed["data"], dtype).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
async def test_with_the_request(front: Front, dtype: str) -> None:
    stacked = loaded(await explained(front, dtype=dtype, class_index="1,3", **{"as": "npy"}))
    assert (stacked.dtype, stacked.shape) == (np.dtype(dtype), (2, 40, 48))
    response = await explained(front, dtype=dtype, map="npy_base64")
    (result,) = response.json()["results"]
    inline = np.load(io.BytesIO(base64.b64decode(result["map"]["npy_base64"])))
    assert inline.dtype == np.dtype(dtype)
    linked = loaded(await front.client.get(result["map"]["href"]))
    assert linked.tobytes() == inline.tobytes()


async def test_half_precision_does_not_reach_that_far(front: Front) -> None:
    reach = float(np.finfo(np.float16).max)
    for factor, fits in ((1, True), (1.001, False)):
        maps = np.full((4, 4), reach * factor, np.float32)
        href = (await explained(front, maps)).headers["Location"]
        url = f"{href}/results/0/map?size=feature&dtype=float16"
        response = await front.client.get(url)
        if fits:
            assert np.isfinite(loaded(response)).all()
        else:
            document = problem(response, 422, "invalid_request")
            assert document["field"] == "dtype"
            assert "65569.5, and float16 65504" in document["detail"]


async def test_what_is_not_finite_stays_so(front: Front) -> None:
    maps = np.array([[np.nan, np.inf], [1, 2]], np.float32)
    href = (await explained(front, maps, convention="captum")).headers["Location"]
    array = loaded(await front.client.get(f"{href}/results/0/map?size=feature&dtype=float16"))
    np.testing.assert_array_equal(array, maps.astype(np.float16))


async def test_a_picture_has_none(front: Front) -> None:
    href = (await explained(front)).headers["Location"]
    url = f"{href}/results/0/overlay?dtype=float16"
    assert problem(await front.client.get(url), 422, "invalid_request")["field"] == "dtype"
    problem(await front.post(params={"dtype": "int8"}), 422, "invalid_request")
