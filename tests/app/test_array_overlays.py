"""What is drawn of arrays: curves, slices, frames, and sheets of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camserve.contracts.input_specs import TensorSpec
from tests.app.arrays import (
    FILM,
    RANDOM,
    SEQUENCE,
    SPECTROGRAM,
    VIDEO,
    VOLUME,
    WAVE,
    ask,
    card,
    job_axes,
    loaded,
    one_map,
    opened,
    sample,
)
from tests.app.front import Front, running_front

pytestmark = pytest.mark.anyio

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
