"""The same map in every form of answer, through HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import Image

from camserve.contracts.explanations import Explanation, MapArray
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio

NAN = np.array([[np.nan, 1.0], [0.1, -2.0]], np.float32)


def values(data: Any) -> np.ndarray:
    return np.array(data, np.float64).astype(np.float32)


async def test_json_and_npy_are_the_same_numbers(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    href = response.json()["results"][0]["map"]["href"]
    for query in ({}, {"size": "input"}, {"convention": "captum", "size": "7x5"}):
        npy = await front.client.get(href, params=query)
        assert npy.headers["content-type"] == "application/x-npy"
        assert ".npy" in npy.headers["content-disposition"]
        array = np.load(io.BytesIO(npy.content))
        answer = await front.client.get(href, params={**query, "as": "json"})
        message = MapArray.model_validate(answer.json())
        assert message.shape == array.shape
        np.testing.assert_array_equal(values(message.data), array)
    by_accept = await front.client.get(href, headers={"Accept": "application/json"})
    assert by_accept.json()["shape"] == [40, 48]


@pytest.mark.parametrize("how", ["list", "npy_base64"])
async def test_a_map_inside_the_answer(front: Front, how: str) -> None:
    asked = front.post(params={"map": how, "size": "12x9", "class_index": "0,1"})
    response, _, _ = await front.done(asked)
    results = response.json()["results"]
    Explanation.model_validate(response.json())
    for result in results:
        linked = await front.client.get(result["map"]["href"], params={"size": "12x9"})
        array = np.load(io.BytesIO(linked.content))
        inline = result["map"]["data" if how == "list" else "npy_base64"]
        assert ("npy_base64" if how == "list" else "data") not in result["map"]
        if how == "npy_base64":
            inline = np.load(io.BytesIO(base64.b64decode(inline)))
        np.testing.assert_array_equal(values(inline), array)


async def test_npy_of_several_is_a_stack(front: Front) -> None:
    accept = {"Accept": "application/x-npy"}
    response, _, _ = await front.done(front.post(params={"class_index": "0,1"}, headers=accept))
    stack = np.load(io.BytesIO(response.content))
    assert stack.shape == (2, 40, 48)
    np.testing.assert_allclose(stack[1], 2 * stack[0], rtol=1e-5)
    assert response.headers["Location"].startswith("/v1/explanations/")


async def test_maps_of_different_uploads_are_stacked_at_one_size(front: Front) -> None:
    files = [("input", png(20, 10)), ("input", png(30, 10))]
    url = "/v1/explanations?as=npy"
    asked = front.client.post(url, data={"model": "toy", "size": "8x8"}, files=files)
    response, _, _ = await front.done(asked)
    assert np.load(io.BytesIO(response.content)).shape == (2, 8, 8)


async def test_maps_that_turn_out_to_differ_are_not_stacked_but_not_lost(front: Front) -> None:
    """Of what resolution a layer is, only the computation tells."""
    files = [("input", png())] * 2
    url, fields = "/v1/explanations?as=npy", {"model": "toy", "upsampling": "none"}
    asked = front.client.post(url, data=fields, files=files)
    response, _, _ = await front.done(asked, lambda n: np.ones((4, 4 + n), np.float32))
    document = problem(response, 422, "invalid_request")
    assert document["field"] == "size"
    kept = await front.client.get(document["explanation"])
    assert len(kept.json()["results"]) == 2


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_pictures(front: Front, form: str, kind: str) -> None:
    asked = front.post(params={"as": form, "alpha": "1", "size": "24"})
    response, _, _ = await front.done(asked)
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.format, image.size) == (kind, (24, 20))
    assert response.headers["content-type"] == f"image/{form}"
    overlay = f"{response.headers['Location']}/results/0/overlay"
    later = await front.client.get(overlay, params={"as": form, "alpha": 1, "size": "24"})
    assert later.content == response.content


async def test_the_links_give_what_the_request_asked_for(front: Front) -> None:
    asked = {
        "view": "contour", "colormap": "viridis", "alpha": "0.4", "threshold": "0.25",
        "color_bar": "true", "scale": "shared", "size": "24",
    }  # fmt: skip
    response, _, _ = await front.done(front.post(params={"class_index": "0,1", **asked}))
    for result in response.json()["results"]:
        path, _, query = result["overlay"]["href"].partition("?")
        assert dict(parse_qsl(query)) == asked
        linked = await front.client.get(result["overlay"]["href"])
        explicit = await front.client.get(path, params=asked)
        assert linked.content == explicit.content
        assert result["map"]["href"].endswith("/map?size=24")
        array = await front.client.get(result["map"]["href"])
        assert np.load(io.BytesIO(array.content)).shape == (20, 24)
    again = await front.client.get(response.headers["Location"])
    assert again.json()["results"] == response.json()["results"]


async def test_links_hold_only_what_differs_from_the_defaults(front: Front) -> None:
    usual = {"view": "overlay", "alpha": "0.6", "color_bar": "false"}
    for params in ({}, usual):
        response, _, _ = await front.done(front.post(params=params))
        (result,) = response.json()["results"]
        assert result["map"]["href"].endswith("/results/0/map")
        assert result["overlay"]["href"].endswith("/results/0/overlay")
    # there is no picture of the feature grid: its link leads to the usual one
    response, _, _ = await front.done(front.post(params={"size": "feature"}))
    (result,) = response.json()["results"]
    assert result["map"]["href"].endswith("/map?size=feature")
    assert (await front.client.get(result["overlay"]["href"])).status_code == 200
    # the size of the same request does not break its link
    response, _, _ = await front.done(front.post(params={"upsampling": "none", "size": "24"}))
    (result,) = response.json()["results"]
    assert (await front.client.get(result["map"]["href"])).status_code == 200


async def test_caches_are_told_what_was_negotiated(front: Front) -> None:
    for form in ("json", "npy", "png"):
        response, _, _ = await front.done(front.post(params={"as": form}))
        assert response.headers["vary"] == "Accept"
    href = response.headers["Location"] + "/results/0"
    for path in ("map", "map?as=json", "overlay", "overlay?as=webp"):
        answer = await front.client.get(f"{href}/{path}")
        assert answer.status_code == 200
        assert answer.headers["vary"] == "Accept"


async def test_a_map_says_what_was_differentiated(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    href = response.json()["results"][0]["map"]["href"]
    answer = await front.client.get(href, params={"as": "json"})
    assert answer.json()["reduction_layer"] == "output"
    refused = await front.client.get(href, params={"as": "json", "convention": "matlab"})
    document = problem(refused, 422, "invalid_request")
    assert document["field"] == "convention"
    assert "POST /v1/explanations" in document["detail"]


async def test_values_that_are_not_finite_are_null(front: Front) -> None:
    response, _, _ = await front.done(front.post(), lambda _: NAN)
    result = response.json()["results"][0]["map"]
    assert (result["min"], result["max"]) == (-2.0, 1.0)
    params = {"as": "json", "size": "feature", "convention": "captum"}
    answer = await front.client.get(result["href"], params=params)
    assert answer.json()["data"][0] == [None, 1.0]
    assert answer.json()["data"][1][0] == 0.1


async def test_wrong_options_of_views_are_named(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    href = response.headers["Location"] + "/results/0"
    for path, params, field in (
        ("map", {"sise": "1"}, "sise"),
        ("map", {"size": "0"}, "size"),
        ("map", {"convention": "x"}, "convention"),
        ("map", {"upsampling": "none", "size": "20"}, "upsampling"),
        ("map", {"upsampling": "linear", "size": "feature"}, "upsampling"),
        ("overlay", {"alpha": "2"}, "alpha"),
        ("overlay", {"colormap": "x"}, "colormap"),
        ("overlay", {"size": "feature"}, "size"),
    ):
        answer = await front.client.get(f"{href}/{path}", params=params)
        assert problem(answer, 422, "invalid_request")["field"] == field
    document = problem(await front.client.get(f"{href}/map?as=png"), 406, "not_acceptable")
    assert document["possible"] == ["json", "npy"]
    document = problem(await front.client.get(f"{href}/overlay?as=npy"), 406, "not_acceptable")
    assert document["possible"] == ["png", "jpeg", "webp"]
    too_large = await front.client.get(f"{href}/map?size=9999x9999")
    assert problem(too_large, 413, "too_large")["limit"] == 16


async def test_406_comes_before_any_work(front: Front) -> None:
    response = await front.post(headers={"Accept": "text/html"})
    document = problem(response, 406, "not_acceptable")
    assert "application/json" in document["possible"]
    assert not await front.worker.claim(["toy"], 1, 0.05)


async def test_an_input_that_cannot_be_read_is_told_by_its_number(front: Front) -> None:
    files = [("input", ("a.png", png())), ("input", ("b.png", b"text"))]
    response = await front.client.post("/v1/explanations", data={"model": "toy"}, files=files)
    assert problem(response, 415, "unreadable_image")["input"] == 1


async def test_labels_outlive_the_card(front: Front) -> None:
    response, _, _ = await front.done(front.post(params={"class_index": 0}))
    assert response.json()["results"][0]["target"]["class_label"] == "arrow"
    await front.registry.remove_card("toy")
    later = await front.client.get(response.headers["Location"])
    assert later.status_code == 200
    assert later.json()["results"][0]["target"]["class_label"] == "arrow"


async def test_reductions_are_named_in_the_result(front: Front) -> None:
    response, job, _ = await front.done(front.post(params={"reduction": "entropy"}))
    target = response.json()["results"][0]["target"]
    assert (target["reduction"], target["class_index"]) == ("entropy", None)
    assert job.targets[0].model_dump()["reduction"] == "entropy"


async def test_results_that_have_expired_are_404(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    href = response.headers["Location"]
    for key in await front.redis.keys("*att*"):
        await front.redis.delete(key)
    problem(await front.client.get(f"{href}/results/0/overlay"), 404, "explanation_not_found")
    await front.redis.flushall()
    problem(await front.client.get(f"{href}/results/0/map"), 404, "explanation_not_found")


async def test_decoding_is_limited(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 pictures of 50 megapixels at once would take 10 GB."""
    import threading
    import time

    from app import admission

    lock, now, most = threading.Lock(), [0], [0]
    real = admission.prepare

    def counted(*args: Any, **options: Any) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        try:
            return real(*args, **options)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(admission, "prepare", counted)
    async with running_front(redis_url, picture_threads=2) as front:
        await front.publish()
        files = [("input", png())] * 8
        asked = front.client.post("/v1/explanations", data={"model": "toy"}, files=files)
        response, _, tensors = await front.done(asked)
        assert response.status_code == 200
        assert len(tensors) == 8
    assert most[0] == 2
