"""Arrays through HTTP: in any order and in every body, to the worker and back as they came."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.input_specs import InputSpec, PictureSpec, TensorSpec
from camserve.maps.resample import resample
from tests.app.front import CARD, Front, png, problem, running_front
from tests.app.test_bodies import npy

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"
RANDOM = np.random.default_rng(0)
SEQUENCE = TensorSpec(format="BCT", shape=(2, 0))
WAVE = TensorSpec(format="BT", shape=(0,))
VOLUME = TensorSpec(format="BCSSS", shape=(1, 8, 12, 10))
VIDEO = TensorSpec(format="BTCSS", shape=(0, 3, 12, 10))
FILM = TensorSpec(format="BTCSSS", shape=(0, 1, 6, 7, 8))
SPECTROGRAM = TensorSpec(format="BCST", shape=(1, 16, 0))


def card(spec: InputSpec, **others: Any) -> ResolvedCard:
    return CARD.model_copy(update={"input": spec, **others})


def sample(spec: TensorSpec) -> np.ndarray:
    shape = [size or 9 for size in spec.shape]
    return RANDOM.normal(size=shape).astype(np.float32)


def coded(array: np.ndarray) -> str:
    return base64.b64encode(npy(array)).decode()


def one_map(*shape: int) -> Any:
    made = np.random.default_rng(shape).normal(size=shape).astype(np.float32)
    return lambda number: made * (number + 1)


async def ask(front: Front, array: np.ndarray, **params: Any) -> tuple[httpx.Response, Any, Any]:
    """A raw body, with its worker."""
    maps = params.pop("maps", one_map(3))
    headers = {"Content-Type": "application/x-npy"}
    return await front.done(front.post(npy(array), params=params, headers=headers), maps)


def loaded(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def opened(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


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


def job_axes(spec: TensorSpec) -> int:
    return sum(letter in "ST" for letter in spec.format)


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
    np.testing.assert_allclose(tensors["input.0"], tensors["input.1"], atol=1e-6)


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


# maps


ORDERS: list[tuple[TensorSpec, str, tuple[int, ...]]] = [
    (VOLUME, "CSSS", (0, 1, 2)),
    (VOLUME, "SSSC", (0, 1, 2)),
    (VIDEO, "TCSS", (0, 1, 2)),
    (VIDEO, "SSTC", (1, 2, 0)),
    (VIDEO, "CSTS", (1, 0, 2)),
    (SPECTROGRAM, "TS", (1, 0)),
    (SEQUENCE, "TC", (0,)),
    (FILM, "SSST", (1, 2, 3, 0)),
]


def placed(labels: str) -> list[str]:
    """A name for each dimension: CSS as C, S0, S1."""
    seen: dict[str, int] = {}
    found = []
    for letter in labels:
        found.append(letter if letter != "S" else f"S{seen.get('S', 0)}")
        seen[letter] = seen.get(letter, 0) + 1
    return found


@pytest.mark.parametrize(("spec", "labels", "axes"), ORDERS, ids=lambda one: str(one)[:12])
async def test_maps_come_back_in_the_clients_order(
    front: Front, spec: TensorSpec, labels: str, axes: tuple[int, ...]
) -> None:
    await front.publish(card(spec))
    truth = sample(spec)
    model = placed(spec.labels)
    theirs = placed(labels)
    dropped = [name for name in model if name not in theirs]
    sent = truth.transpose([model.index(name) for name in (*dropped, *theirs)])
    sent = sent[0] if dropped else sent
    signed = one_map(*range(3, 3 + len(axes)))(0)
    response, _, tensors = await ask(front, sent, format=labels, maps=lambda _: signed)
    assert tensors["input.0"].tobytes() == np.ascontiguousarray(truth).tobytes()
    result = response.json()["results"][0]
    arranged = signed.transpose(axes)
    assert result["map"]["shape"] == list(arranged.shape)
    sent_size = [side for name, side in zip(theirs, sent.shape, strict=True) if name != "C"]
    double = "x".join(str(2 * side) for side in sent_size)
    cases = [("original", sent_size), ("input", sent_size), (None, sent_size),
             (str(2 * max(sent_size)), [2 * side for side in sent_size])]  # fmt: skip
    if len(axes) < 4:
        cases.append((double, [2 * side for side in sent_size]))
    for size, expected_size in cases:
        params = {} if size is None else {"size": size}
        found = loaded(await front.client.get(result["map"]["href"], params=params))
        expected = resample(np.maximum(arranged, 0), expected_size, "bicubic")
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)
        answer = await front.client.get(result["map"]["href"], params={**params, "as": "json"})
        assert answer.json()["shape"] == expected_size
        same = np.array(answer.json()["data"], np.float64).astype(np.float32)
        assert same.tobytes() == found.tobytes()
    at_feature = loaded(await front.client.get(result["map"]["href"], params={"size": "feature"}))
    np.testing.assert_allclose(at_feature, np.maximum(arranged, 0), rtol=1e-6)


async def test_maps_of_several_arrays_are_stacked(front: Front) -> None:
    await front.publish(card(VOLUME))
    volumes = RANDOM.normal(size=(2, 8, 12, 10)).astype(np.float32)
    response, _, _ = await ask(
        front, volumes, format="BSSS", maps=one_map(3, 4, 5), **{"as": "npy", "class_index": "0,1"}
    )
    stack = loaded(response)
    assert stack.shape == (4, 8, 12, 10)
    np.testing.assert_allclose(stack[3], 4 * stack[0], rtol=1e-5)


@pytest.mark.parametrize("how", ["list", "npy_base64"])
async def test_a_map_inside_the_answer(front: Front, how: str) -> None:
    await front.publish(card(VIDEO))
    response, _, _ = await ask(front, sample(VIDEO), maps=one_map(3, 4, 5), map=how, size="4x6x5")
    (result,) = response.json()["results"]
    linked = loaded(await front.client.get(result["map"]["href"]))
    assert linked.shape == (4, 6, 5)
    inline = result["map"]["data" if how == "list" else "npy_base64"]
    if how == "list":
        found = np.array(inline, np.float64).astype(np.float32)
    else:
        found = np.load(io.BytesIO(base64.b64decode(inline)))
    assert found.tobytes() == linked.tobytes()


async def test_maps_inside_the_answer_share_its_room(redis_url: str) -> None:
    async with running_front(redis_url, max_output_megapixels=0.001) as front:
        await front.publish(card(VOLUME))
        response, _, _ = await ask(
            front, sample(VOLUME), maps=one_map(3, 4, 5), map="list", class_index="0,1,2,3"
        )
        sizes = [np.size(result["map"]["data"]) for result in response.json()["results"]]
        assert sum(sizes) <= 1000
        assert min(sizes) > 100


async def test_a_default_map_is_made_to_fit_and_one_that_is_asked_for_is_not(
    redis_url: str,
) -> None:
    async with running_front(redis_url, max_output_megapixels=0.0005) as front:
        await front.publish(card(VOLUME))
        response, _, _ = await ask(front, sample(VOLUME), maps=one_map(3, 4, 5))
        href = response.json()["results"][0]["map"]["href"]
        shape = loaded(await front.client.get(href)).shape
        assert 250 < np.prod(shape) <= 500
        assert max(abs(np.array(shape) / (8, 12, 10) - shape[1] / 12)) < 0.13
        for size in ("original", "8x12x10", "99999x99999x99999", "12"):
            refused = await front.client.get(href, params={"size": size})
            document = problem(refused, 413, "too_large")
            assert "smaller size" in document["detail"]
            assert document["limit"] == 0.0005
        assert loaded(await front.client.get(href, params={"size": "6"})).shape == (4, 6, 5)


SIZES: list[tuple[InputSpec, str, str]] = [
    (VOLUME, "3x3", "has 2 numbers, and the input has 3 axes: it is 8x12x10"),
    (SEQUENCE, "3x3", "has 2 numbers, and the input has one axis: it is 9"),
    (SPECTROGRAM, "3x3x3", "has 3 numbers, and the input has 2 axes: it is 16x9"),
    (PictureSpec(height=32, width=32), "3x3x3", "three numbers, and a picture two axes"),
]


@pytest.mark.parametrize(("spec", "size", "told"), SIZES, ids=lambda one: str(one)[:20])
async def test_a_size_of_another_number_of_axes_is_refused_at_the_door_and_later(
    front: Front, spec: InputSpec, size: str, told: str
) -> None:
    await front.publish(card(spec))
    content = npy(sample(spec)) if isinstance(spec, TensorSpec) else png()
    maps = one_map(*[3] * job_axes(spec)) if isinstance(spec, TensorSpec) else one_map(3, 3)
    headers = {"Content-Type": "application/octet-stream"}
    for form in ("json", "npy", "png"):
        refused = await front.post(content, params={"size": size, "as": form}, headers=headers)
        document = problem(refused, 422, "invalid_request")
        assert told in document["detail"]
        assert document["field"] == "output.size"
    assert not await front.worker.claim(["toy"], 1, 0.05)
    response, _, _ = await front.done(front.post(content, headers=headers), maps)
    for view in ("map", "overlay"):
        href = f"{response.headers['location']}/results/0/{view}"
        document = problem(
            await front.client.get(href, params={"size": size}), 422, "invalid_request"
        )
        assert told in document["detail"]
        assert document["field"] == "size"


# pictures


CANVASES: list[tuple[TensorSpec, dict[str, Any], tuple[int, int]]] = [
    (SEQUENCE, {}, (800, 200)),
    (SEQUENCE, {"size": "256"}, (256, 64)),
    (WAVE, {"size": "1200"}, (1200, 300)),
    (SPECTROGRAM, {"size": "400"}, (400, 400)),
    (SPECTROGRAM, {"size": "60x90"}, (90, 60)),
    (VOLUME, {"size": "4x36x30"}, (62, 74)),
    (VIDEO, {"size": "original"}, (604, 799)),
    (FILM, {"size": "input"}, (799, 775)),
]


@pytest.mark.parametrize(("spec", "params", "size"), CANVASES, ids=lambda one: str(one)[:30])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
async def test_an_overlay_for_each_canvas(
    front: Front, spec: TensorSpec, params: dict[str, str], size: tuple[int, int], form: str
) -> None:
    await front.publish(card(spec))
    asked = {**params, "as": form}
    response, _, _ = await ask(front, sample(spec), maps=one_map(*[3] * job_axes(spec)), **asked)
    drawn = opened(response)
    assert (drawn.format, drawn.size) == (form.upper(), size)
    colours = np.asarray(drawn.convert("RGB")).astype(int)
    assert (np.ptp(colours, axis=2) > 80).any()  # there is evidence in it
    # and again by its link, and in every view
    href = f"{response.headers['location']}/results/0/overlay"
    again = await front.client.get(href, params=asked)
    assert again.content == response.content
    for view in ("heatmap", "side_by_side", "contour"):
        other = opened(await front.client.get(href, params={**asked, "view": view}))
        assert other.height == size[1]
        assert (other.width > 2 * size[0]) == (view == "side_by_side")


async def test_the_curve_stays_dark_on_the_colours_of_its_map(front: Front) -> None:
    await front.publish(card(WAVE))
    wave = np.sin(np.arange(60) / 5).astype(np.float32)
    response, _, _ = await ask(front, wave, maps=lambda _: np.ones(60, np.float32) * 2 + (
        np.arange(60) > 5).astype(np.float32))  # fmt: skip
    href = f"{response.headers['location']}/results/0/overlay"
    drawn = np.asarray(opened(await front.client.get(href)).convert("L")).astype(int)
    plot = drawn[:172, 200:600]
    assert plot.max() > 70  # strong colour
    assert (plot < 55).any(axis=0).all()  # and the line in each column


async def test_contours_keep_off_the_edges_of_slices(front: Front) -> None:
    await front.publish(card(VOLUME))
    flat = np.ones((4, 4, 4), np.float32)
    flat[0] = 0  # nothing on the first slices, everything on the others, and no slope on any
    response, _, _ = await ask(
        front, np.zeros((8, 12, 10), np.float32), format="SSS", maps=lambda _: flat,
        upsampling="nearest",
    )  # fmt: skip
    href = f"{response.headers['location']}/results/0/overlay"
    drawn = np.asarray(opened(await front.client.get(href, params={"view": "contour"})))
    assert (np.ptp(drawn.astype(int), axis=2) < 5).all()  # gray: no line anywhere


async def test_links_carry_the_size_and_style_that_were_asked_for(front: Front) -> None:
    await front.publish(card(VOLUME))
    response, _, _ = await ask(
        front, sample(VOLUME), maps=one_map(3, 4, 5),
        size="4x24x20", view="contour", color_bar="true", scale="shared",
    )  # fmt: skip
    (result,) = response.json()["results"]
    assert result["map"]["href"].endswith("/map?size=4x24x20")
    assert loaded(await front.client.get(result["map"]["href"])).shape == (4, 24, 20)
    query = result["overlay"]["href"].partition("?")[2]
    assert query == "view=contour&color_bar=true&scale=shared&size=4x24x20"
    opened(await front.client.get(result["overlay"]["href"]))


async def test_several_results_are_a_sheet_with_a_row_for_each_input(front: Front) -> None:
    await front.publish(card(VOLUME))
    volumes = RANDOM.normal(size=(2, 8, 12, 10)).astype(np.float32)
    response, _, _ = await ask(
        front, volumes, format="BSSS", maps=one_map(3, 4, 5),
        **{"as": "webp", "class_index": "0,1,2", "size": "200"},
    )  # fmt: skip
    sheet = opened(response)
    one = opened(
        await front.client.get(f"{response.headers['location']}/results/0/overlay?size=200")
    )
    assert sheet.size == (3 * one.width + 16, 2 * one.height + 8)


async def test_a_sheet_of_arrays_stays_within_its_room(redis_url: str) -> None:
    async with running_front(redis_url, max_output_megapixels=0.3) as front:
        await front.publish(card(VOLUME))
        volumes = RANDOM.normal(size=(4, 8, 12, 10)).astype(np.float32)
        for view in ("overlay", "side_by_side"):
            response, _, _ = await ask(
                front, volumes, format="BSSS", maps=one_map(3, 4, 5), view=view,
                **{"as": "png", "class_index": "0,1,2", "color_bar": "true"},
            )  # fmt: skip
            sheet = opened(response)
            assert 0.15e6 < sheet.width * sheet.height <= 0.3e6


async def test_a_shared_scale_is_that_of_whole_maps(front: Front) -> None:
    """Also where the strongest evidence is in a slice that is not drawn."""
    await front.publish(card(TensorSpec(format="BCSSS", shape=(1, 40, 30, 30))))
    weak = np.full((40, 1, 1), 1e-3, np.float32)
    weak[20] = 0.25
    strong = np.full((40, 1, 1), 1e-3, np.float32)
    strong[5] = 1.0  # every third is drawn: 0, 3, 6 …
    response, _, _ = await ask(
        front, np.zeros((40, 30, 30), np.float32), format="SSS", class_index="0,1",
        upsampling="nearest", maps=lambda number: (strong, weak)[number],
    )  # fmt: skip
    style = {"view": "heatmap", "colormap": "gray", "size": "14x30x30"}
    href = f"{response.headers['location']}/results"
    for scale, number in (("each", 0), ("shared", 0), ("each", 1), ("shared", 1)):
        params = {**style, "scale": scale}
        drawn = opened(await front.client.get(f"{href}/{number}/overlay", params=params))
        gray = np.asarray(drawn.convert("L"))[np.asarray(drawn.getchannel("A")) > 0]
        assert gray.max() <= 1
    # a slice that is drawn has the colour that it has in the whole map
    strong[6] = 0.5
    for convention, share in (("camserve", 0.5), ("paper", 0.5)):
        response, _, _ = await ask(
            front, np.zeros((40, 30, 30), np.float32), format="SSS", convention=convention,
            upsampling="nearest", maps=lambda _: strong, color_bar="false",
        )  # fmt: skip
        href = f"{response.headers['location']}/results/0/overlay"
        drawn = opened(await front.client.get(href, params=style))
        gray = np.asarray(drawn.convert("L"))[np.asarray(drawn.getchannel("A")) > 0]
        assert abs(int(gray.max()) - 255 * share) <= 2


# several layers


async def test_several_layers_are_fused_as_asked_or_as_the_convention_has_it(front: Front) -> None:
    await front.publish(card(SEQUENCE, modules=("a", "b")))
    a = np.array([-3.0, 1.0, 0.5, 4.0], np.float32)
    b = np.array([2.0, 5.0, -1.0, 0.0], np.float32)
    for convention, fusion, signed, expected in (
        ("camserve", None, (a + b) / 2, (np.maximum(a, 0) + np.maximum(b, 0)) / 2),
        ("camserve", "max", np.maximum(a, b), np.maximum(np.maximum(a, b), 0)),
        ("camserve", "mean", (a + b) / 2, (np.maximum(a, 0) + np.maximum(b, 0)) / 2),
        ("torchcam", None, np.maximum(a, b),
         np.maximum(np.maximum(a, 0) / 4, np.maximum(b, 0) / 5)),
        ("torchcam", "mean", (a + b) / 2, (np.maximum(a, 0) / 4 + np.maximum(b, 0) / 5) / 2),
    ):  # fmt: skip
        params = {"convention": convention, "feature_layer": ["a", "b"]}
        params |= {"fusion": fusion} if fusion else {}
        response, job, _ = await ask(
            front, np.zeros((2, 9), np.float32), maps=lambda _: (a, b), **params
        )
        assert job.feature_layers == ("a", "b")
        (result,) = response.json()["results"]
        assert result["feature_layer"] == ["a", "b"]
        assert result["map"]["max"] == pytest.approx(signed.max())
        assert result["map"]["min"] == pytest.approx(signed.min())
        found = loaded(await front.client.get(result["map"]["href"], params={"size": "feature"}))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        other = {"size": "feature", "fusion": "max", "convention": "camserve"}
        later = loaded(await front.client.get(result["map"]["href"], params=other))
        np.testing.assert_allclose(later, np.maximum(np.maximum(a, b), 0), rtol=1e-5)


async def test_layers_of_unequal_size_meet_at_the_largest(front: Front) -> None:
    await front.publish(card(SEQUENCE, modules=("a", "b")))
    a, b = np.array([1.0, 3.0], np.float32), np.array([0.0, 1.0, 2.0, 8.0], np.float32)
    response, _, _ = await ask(
        front, np.zeros((2, 8), np.float32), maps=lambda _: (a, b),
        feature_layer=["a", "b"], convention="captum", upsampling="nearest",
    )  # fmt: skip
    (result,) = response.json()["results"]
    assert result["map"]["shape"] == [4]
    found = loaded(await front.client.get(result["map"]["href"]))
    np.testing.assert_allclose(found, (np.repeat(a, 4) + np.repeat(b, 2)) / 2)


# regions


async def test_regions_reach_the_worker_on_the_models_grid(front: Front) -> None:
    segmenting = card(VIDEO, task="segmentation", output_shape=(5, 9, 12, 10))
    await front.publish(segmenting)
    sent = sample(VIDEO).transpose(2, 3, 0, 1)  # SSTC
    document = {
        "model": "toy",
        "format": "SSTC",
        "inputs": [{"tensor": {"npy_base64": coded(sent)}}],
        "targets": [
            {"reduction": "segmentation",
             "params": {"class_index": 1, "region": {"box": [2, 3, 4, 6, 8, 7]}}},
            {"reduction": "segmentation", "params": {"class_index": 2, "region": "all"}},
            {"reduction": "segmentation",
             "params": {"class_index": 3, "region": {"point": [11, 0, 5]}}},
        ],
    }  # fmt: skip
    asked = front.client.post(URL, json=document)
    response, job, tensors = await front.done(asked, one_map(3, 4, 5))
    assert response.status_code == 200, response.text
    assert sorted(tensors) == ["input.0", "region.0.0", "region.2.0"]
    box = np.zeros((9, 12, 10), dtype=bool)
    box[4:7, 2:6, 3:8] = True
    assert tensors["region.0.0"].dtype == np.bool_
    np.testing.assert_array_equal(tensors["region.0.0"], box)
    assert np.argwhere(tensors["region.2.0"]).tolist() == [[5, 11, 0]]
    assert [target.region for target in job.targets] == ["given", "all", "given"]


async def test_a_mask_file_for_several_pictures_and_what_is_wrong_with_one(front: Front) -> None:
    await front.publish(card(CARD.input, task="segmentation", output_shape=(5, 32, 32)))
    mask = Image.new("L", (48, 40))
    mask.paste(1, (0, 0, 24, 40))
    file = io.BytesIO()
    mask.save(file, "PNG")
    fields = {"model": "toy", "reduction": "segmentation", "params": '{"class_index": 2}'}
    files = [("input", png()), ("input", png()), ("mask", ("mask.png", file.getvalue()))]
    asked = front.client.post(URL, data=fields, files=files)
    response, _, tensors = await front.done(asked)
    assert response.status_code == 200, response.text
    for number in (0, 1):
        region = tensors[f"region.0.{number}"]
        assert region[:, :16].all()
        assert not region[:, 16:].any()
    files[1] = ("input", png(20, 20))
    refused = await front.client.post(URL, data=fields, files=files)
    document = problem(refused, 422, "invalid_request")
    assert "the mask is 40 x 48, the input 20 x 20" in document["detail"]
    assert (document["input"], document["target"]) == (1, 0)
    assert document["expected"] == [20, 20]


async def test_a_mask_is_read_once_for_all_inputs(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 times 50 megapixels would take a minute, from a file of six kilobytes."""
    from app import regions

    read = []
    real = regions.decode_mask
    monkeypatch.setattr(regions, "decode_mask", lambda *args: read.append(1) or real(*args))
    await front.publish(card(CARD.input, task="segmentation", output_shape=(5, 32, 32)))
    fields = {"model": "toy", "reduction": "segmentation", "params": '{"class_index": 2}'}
    files = [("input", png())] * 5 + [("mask", ("mask.png", png()))]
    response, _, _ = await front.done(front.client.post(URL, data=fields, files=files))
    assert response.status_code == 200, response.text
    assert len(read) == 1


# what is refused


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


@pytest.mark.parametrize("body", ["lists", "npy_base64", "form"])
async def test_nothing_that_takes_long_runs_in_the_event_loop(
    front: Front, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    from app import documents, drawing, forms, inputs, payloads, presentation

    ran: dict[str, set[bool]] = {}

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            here = threading.current_thread() is threading.main_thread()
            ran.setdefault(name, set()).add(here)
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    for module, names in (
        (documents, ("read_array", "decoded")),
        (forms, ("parse_document",)),
        (inputs, ("read_array", "arranged", "sketch_of")),
        (payloads, ("region_on", "read_mask")),
        (presentation, ("present",)),
        (drawing, ("overlay",)),
    ):
        for name in names:
            watched(module, name)
    await front.publish(card(WAVE, task="segmentation", output_shape=(5, 9)))
    wave, mask = sample(WAVE), coded(np.ones(9, bool))
    params = {"class_index": 1, "region": {"mask": {"base64": mask}}}
    document = {"model": "toy", "targets": [{"reduction": "segmentation", "params": params}]}
    if body == "form":
        fields = {"request": json.dumps(document)}
        asked = front.client.post(URL, data=fields, files={"input": npy(wave)})
    else:
        tensor = {"data": wave.tolist()} if body == "lists" else {"npy_base64": coded(wave)}
        asked = front.client.post(URL, json={**document, "inputs": [{"tensor": tensor}]})
    response, _, _ = await front.done(asked, one_map(3))
    overlay = f"{response.headers['location']}/results/0/overlay"
    opened(await front.client.get(overlay))
    loaded(await front.client.get(overlay.replace("overlay", "map")))
    expected = {"arranged", "sketch_of", "region_on", "read_mask", "present", "overlay"}
    expected |= {"lists": {"read_array"}, "npy_base64": {"decoded", "read_array"},
                 "form": {"parse_document", "read_array"}}[body]  # fmt: skip
    assert set(ran) >= expected
    assert all(here == {False} for here in ran.values()), ran
