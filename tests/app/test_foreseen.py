"""An answer that cannot be given is refused before its job is queued."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.arrays import VOLUME, ask, card, npy, one_map, sample
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"


async def refused(front: Front, form: str, status: int, *pictures: bytes, **fields: Any) -> Any:
    """The problem of a request, which nobody serves: a queued job would be a 202."""
    files = [("input", picture) for picture in pictures or (png(),)]
    response = await front.client.post(
        URL, params={"as": form}, data={"model": "toy", **fields}, files=files,
        headers={"Prefer": "respond-async"},
    )  # fmt: skip
    code = {413: "too_large", 422: "invalid_request"}[status]
    document = problem(response, status, code)
    assert "explanation" not in document
    (listed,) = (await front.client.get("/v1/models")).json()["models"]
    assert listed["queue_depth"] == 0
    return document


INLINE = [("npy", "link"), ("json", "list"), ("json", "npy_base64"), ("png", "list")]


@pytest.mark.parametrize(("form", "inline"), INLINE)
@pytest.mark.parametrize("size", ["64", "4x4", "input"])
async def test_a_size_beside_no_upsampling(front: Front, form: str, inline: str, size: str) -> None:
    document = await refused(front, form, 422, size=size, upsampling="none", map=inline)
    assert document["field"] == "upsampling"
    assert "size=feature" in document["detail"]


@pytest.mark.parametrize(("form", "inline"), INLINE[:3])
async def test_the_feature_grid_beside_an_upsampling(front: Front, form: str, inline: str) -> None:
    document = await refused(front, form, 422, size="feature", upsampling="linear", map=inline)
    assert document["field"] == "upsampling"


async def test_what_lies_behind_links_and_pictures_may_have_both(front: Front) -> None:
    for form in ("json", "png"):
        fields = {"as": form, "size": "24", "upsampling": "none"}
        response, _, _ = await front.done(front.post(params=fields))
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("form", ["npy", "png", "webp"])
async def test_a_size_without_room(front: Front, form: str) -> None:
    document = await refused(front, form, 413, size="20000")
    assert document["limit"] == 16
    assert document["field"] == "output.size"


async def test_a_drawing_of_a_volume_has_pixels_and_not_that_many_cells(front: Front) -> None:
    """A cube of 640 cells a side has no room; a drawing of its slices has."""
    await front.publish(card(VOLUME))
    for form in ("png", "json"):
        fields = {"as": form, "size": "640"}
        response, _, _ = await ask(front, sample(VOLUME), **fields, maps=one_map(2, 3, 3))
        assert response.status_code == 200, response.text
    refusal = await front.post(
        npy(sample(VOLUME)), params={"as": "npy", "size": "640"},
        headers={"Content-Type": "application/x-npy"},
    )  # fmt: skip
    problem(refusal, 413, "too_large")


async def test_a_size_of_other_axes_than_the_inputs_is_refused_behind_links_too(
    front: Front,
) -> None:
    for form in ("json", "npy", "png"):
        document = await refused(front, form, 422, size="8x8x8")
        assert document["field"] == "output.size"


async def test_a_picture_longer_than_its_kind_of_file(front: Front) -> None:
    document = await refused(front, "webp", 413, size="17000x10")
    assert "PNG" in document["detail"]


async def test_all_maps_together_count(front: Front) -> None:
    document = await refused(front, "npy", 413, png(), png(), size="2000x2000", class_index="0,1,2")
    assert "6 maps of 2000x2000" in document["detail"]


async def test_maps_that_differ_are_no_stack(front: Front) -> None:
    document = await refused(front, "npy", 422, png(20, 10), png(30, 10))
    assert "cannot be stacked" in document["detail"]
    assert document["field"] == "output.size"


async def test_the_picture_of_the_feature_grid(front: Front) -> None:
    document = await refused(front, "png", 422, size="feature")
    assert "size=input&upsampling=nearest" in document["detail"]
    assert document["field"] == "output.size"


async def test_numbers_in_json(front: Front, redis_url: str) -> None:
    document = await refused(front, "json", 413, size="1001x1000", map="list")
    assert document["limit"] == 1
    assert "output.map=npy_base64" in document["detail"]
    async with running_front(redis_url, max_json_megapixels=0.001) as small:
        await small.publish()
        await refused(small, "json", 413, png(), png(), size="30x20", map="list")
