"""Numbers in JSON cost ten times what they do in .npy, and have a limit of their own."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.app.arrays import loaded
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio


async def test_a_map_as_json_has_a_smaller_limit_than_as_npy(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    url = f"{response.headers['Location']}/results/0/map"
    large = {"size": "1250x1000"}
    document = problem(await front.client.get(url, params=large | {"as": "json"}), 413, "too_large")
    assert document["limit"] == 1
    assert "?as=npy" in document["detail"]
    assert loaded(await front.client.get(url, params=large)).shape == (1000, 1250)
    answer = await front.client.get(url, params={"as": "json", "size": "60x50"})
    assert np.shape(answer.json()["data"]) == (50, 60)


async def test_without_a_size_they_are_made_to_fit(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=0.001) as front:
        await front.publish()
        files = [("input", png())] * 2
        fields = {"model": "toy", "map": "list"}
        asked = front.client.post("/v1/explanations", data=fields, files=files)
        response, _, _ = await front.done(asked)
        shapes = [np.shape(one["map"]["data"]) for one in response.json()["results"]]
        assert shapes[0] == shapes[1]
        assert 400 < np.prod(shapes[0]) <= 500
        url = f"{response.headers['Location']}/results/0/map"
        alone = (await front.client.get(url, params={"as": "json"})).json()
        assert 900 < np.prod(alone["shape"]) <= 1000
        assert loaded(await front.client.get(url)).shape == (40, 48)


async def test_the_feature_layers_own_resolution_is_no_way_around_it(redis_url: str) -> None:
    async with running_front(redis_url, max_json_megapixels=0.001) as front:
        await front.publish()
        response, _, _ = await front.done(front.post(), lambda _: np.ones((50, 50), np.float32))
        url = f"{response.headers['Location']}/results/0/map"
        asked = {"size": "feature", "as": "json"}
        problem(await front.client.get(url, params=asked), 413, "too_large")
        assert loaded(await front.client.get(url, params={"size": "feature"})).shape == (50, 50)


async def test_a_stack_is_sent_without_copies_of_it(front: Front) -> None:
    """As one array and as a file, sixteen maps of a megapixel would be 64 MB twice more."""
    asked = front.post(params={"as": "npy", "class_index": [0, 1, 2, 3], "size": "1000x1000"})
    tracemalloc.start()
    try:
        response, _, _ = await front.done(asked)
        # the maps, what the client reads, and what one map takes to be made
        assert tracemalloc.get_traced_memory()[1] < 16e6 * 2 + 16e6
    finally:
        tracemalloc.stop()
    assert int(response.headers["content-length"]) == len(response.content)
    assert loaded(response).shape == (4, 1000, 1000)
