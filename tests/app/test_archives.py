"""All maps and the explanation as one .zip file."""

from __future__ import annotations

import io
import json
import zipfile

import httpx
import numpy as np
import pytest

from tests.app.front import Front, png, problem

pytestmark = pytest.mark.anyio


def opened(response: httpx.Response) -> zipfile.ZipFile:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(response.content))


async def test_it_holds_the_explanation_and_each_of_its_maps(front: Front) -> None:
    files = [("input", ("a.png", png(48, 40))), ("input", ("b.png", png(20, 30)))]
    asked = front.client.post(
        "/v1/explanations?as=zip", data={"model": "toy", "class_index": "1,3"}, files=files
    )
    response, _, _ = await front.done(asked)
    href = response.headers["Location"]
    name = href.rpartition("/")[2]
    assert response.headers["Content-Disposition"] == f'attachment; filename="{name}.zip"'
    with opened(response) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        assert manifest == (await front.client.get(href)).json()
        assert len(manifest["results"]) == 4
        names = [f"maps/{number}.npy" for number in range(4)]
        assert archive.namelist() == ["manifest.json", *names]
        # of different sizes, which could not be stacked
        for number, file in enumerate(names):
            one = await front.client.get(manifest["results"][number]["map"]["href"])
            assert archive.read(file) == one.content
        assert all(member.external_attr >> 16 == 0o644 for member in archive.infolist())


async def test_the_same_later(front: Front) -> None:
    response, _, _ = await front.done(front.post(params={"as": "zip", "class_index": "1,3"}))
    href = response.headers["Location"]
    for how in ({"params": {"as": "zip"}}, {"headers": {"Accept": "application/zip"}}):
        again = await front.client.get(href, **how)
        assert again.content == response.content
    stacked = await front.client.get(f"{href}?as=npy")
    maps = np.load(io.BytesIO(stacked.content))
    assert maps.shape == (2, 40, 48)
    with opened(response) as archive:
        np.testing.assert_array_equal(np.load(io.BytesIO(archive.read("maps/1.npy"))), maps[1])


async def test_not_before_there_is_one(front: Front) -> None:
    response = await front.post(headers={"Prefer": "respond-async"})
    href = response.headers["Location"]
    problem(await front.client.get(f"{href}?as=zip"), 409, "not_ready")
    refused = problem(await front.client.get(f"{href}?as=png"), 406, "not_acceptable")
    assert refused["possible"] == ["json", "npy", "zip"]
    await front.client.delete(href)
    problem(await front.client.get(f"{href}?as=zip"), 409, "canceled")


async def test_all_maps_together_have_a_limit(front: Front) -> None:
    fields = {"as": "zip", "size": "3000x3000", "class_index": "1,3"}
    document = problem(await front.post(params=fields), 413, "too_large")
    assert document["limit"] == 16
    fields["size"] = "2000x2000"
    response, _, _ = await front.done(front.post(params=fields))
    assert response.status_code == 200
