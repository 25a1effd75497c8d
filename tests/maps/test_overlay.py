"""Overlays: what colour stands where, and how opaque it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from camserve.errors import InvalidRequest
from camserve.maps.color_bar import with_color_bar
from camserve.maps.colormaps import COLORMAPS, colormap, colour_image, quantise
from camserve.maps.orientation import as_stored, upright
from camserve.maps.overlay import VIEWS, largest_size, overlay

SIZE = (48, 64)


def photograph(height: int = SIZE[0], width: int = SIZE[1]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def ramp(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width)).copy()


def half_mask() -> np.ndarray:
    mask = np.ones(SIZE, dtype=bool)
    mask[:, 40:] = False
    return mask


def test_without_evidence_the_photograph_stays():
    picture = photograph()
    assert np.array_equal(overlay(picture, np.zeros(SIZE)), picture)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("share", "times"), [(0.6, 1), (0.85, 2), (1.0, 2)])
def test_strong_evidence_has_alpha_and_the_peak_has_it_twice(alpha, share, times):
    picture = photograph()
    unit = np.full(SIZE, share)
    ours = np.asarray(overlay(picture, unit, alpha=alpha, colormap="jet")).astype(float)
    through = (1 - alpha) ** times
    colour = colormap("jet")[round(255 * share)]
    assert np.abs(ours - (through * np.asarray(picture) + (1 - through) * colour)).max() <= 1.5


def test_the_peak_is_redder_than_its_ring_on_a_saturated_blue_object():
    """It was a grey hole: (101, 81, 103) within a ring of warm colours."""
    cyan = Image.new("RGB", (101, 1), (70, 190, 255))
    unit = np.linspace(0, 1, 101, dtype=np.float32)[None]
    red, green, blue = np.asarray(overlay(cyan, unit))[0].astype(int).T
    assert red[-1] > 140
    assert red[-1] > max(green[-1], blue[-1]) + 80
    redness = red - (green + blue) / 2
    assert redness[80:].min() > redness[:65].max()
    assert redness[-1] > 0.75 * redness.max()


def test_the_bar_has_the_colours_of_the_picture_beside_it():
    black = Image.new("RGB", (200, 200))
    for view, last in (("overlay", 237), ("side_by_side", 237), ("heatmap", 255)):
        unit = np.ones((200, 200))
        barred = np.asarray(overlay(black, unit, view=view, alpha=1.0, color_bar=True))
        assert tuple(barred[100, 0 if view != "side_by_side" else 300]) == tuple(
            colormap("turbo")[last]
        )
        panel = {tuple(p) for p in barred[:, -60:].reshape(-1, 3).tolist()}
        assert tuple(colormap("turbo")[last].tolist()) in panel


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("color_bar", [False, True])
@pytest.mark.parametrize("view", VIEWS)
def test_the_largest_size_is_known_before_anything_is_drawn(view, color_bar, orientation):
    for height, width in ((1, 1), (20, 400), (400, 20), (200, 300)):
        drawn = overlay(
            photograph(height, width), ramp(height, width), view=view, color_bar=color_bar,
            color_bar_range=(1.23e-300, 4.56e300), orientation=orientation,
        )  # fmt: skip
        most = largest_size(
            (width, height), view=view, color_bar=color_bar, orientation=orientation
        )
        standing = upright(drawn, orientation).size
        assert standing[0] <= most[0]
        assert standing[1] == most[1]
        assert most[0] - standing[0] <= (max(height, width) / 10 + 20 if color_bar else 0)


def test_more_evidence_is_more_opaque():
    black, white = (Image.new("RGB", SIZE[::-1], colour) for colour in ("black", "white"))
    shown = [np.asarray(overlay(ground, ramp())).astype(int) for ground in (black, white)]
    transparency = (shown[1] - shown[0])[0, :, 0]
    assert transparency[0] == 255
    assert (np.diff(transparency) <= 1).all()
    assert transparency[-1] == pytest.approx(255 * 0.4**2, abs=2)


def test_what_the_model_did_not_see_has_no_colour():
    picture = photograph()
    ours = np.asarray(overlay(picture, np.ones(SIZE), mask=half_mask()))
    assert np.array_equal(ours[:, 40:], np.asarray(picture)[:, 40:])
    assert not np.array_equal(ours[:, :40], np.asarray(picture)[:, :40])


@pytest.mark.parametrize("name", COLORMAPS)
def test_the_heat_map_is_the_colours_alone(name):
    ours = overlay(photograph(), ramp(), view="heatmap", colormap=name)
    assert ours.mode == "RGB"
    assert np.array_equal(ours, colour_image(quantise(ramp()), name))


def test_the_heat_map_is_transparent_where_nothing_was_seen():
    ours = overlay(photograph(), ramp(), view="heatmap", mask=half_mask())
    assert ours.mode == "RGBA"
    assert np.array_equal(np.asarray(ours)[..., 3] == 255, half_mask())
    assert overlay(photograph(), ramp(), view="heatmap", mask=np.ones(SIZE, bool)).mode == "RGB"


def test_side_by_side_holds_both():
    picture = photograph()
    both = overlay(picture, ramp(), view="side_by_side")
    assert both.height == SIZE[0]
    assert np.array_equal(both.crop((0, 0, 64, 48)), picture)
    assert np.array_equal(both.crop((both.width - 64, 0, both.width, 48)), overlay(picture, ramp()))


def test_contours_run_where_the_map_has_their_levels():
    grey = Image.new("RGB", (480, 480), (128, 128, 128))
    ours = np.asarray(overlay(grey, ramp(480, 480), view="contour")).astype(int)
    touched = np.flatnonzero((ours != 128).any(axis=(0, 2)))
    # unit = column / 479, lines at a quarter, a half and three quarters, each a few pixels wide.
    lines = np.split(touched, np.flatnonzero(np.diff(touched) > 1) + 1)
    assert [line.mean() for line in lines] == pytest.approx([119.75, 239.5, 359.25], abs=0.6)
    assert max(len(line) for line in lines) <= 8
    for line, level in zip(lines, (0.25, 0.5, 0.75), strict=True):
        middle = ours[100, round(line.mean())]
        assert np.abs(middle - colormap("turbo")[round(255 * level)]).max() < 3


def test_contours_keep_off_plateaus_edges_of_the_crop_and_below_the_threshold():
    picture = photograph()
    mask = half_mask()
    plateau = np.where(mask, 0.9, 0.0)
    assert np.array_equal(overlay(picture, plateau, view="contour", mask=mask), picture)
    nothing = np.zeros_like(mask)
    assert np.array_equal(overlay(picture, ramp(), view="contour", mask=nothing), picture)


@pytest.mark.parametrize(
    ("threshold", "levels"),
    [
        (0.0, (0.25, 0.5, 0.75)),
        (0.1, (0.1, 0.25, 0.5, 0.75)),
        (0.5, (0.5, 0.75)),
        (0.6, (0.6, 0.75)),
        (0.9, (0.9,)),
    ],
)
def test_there_is_a_contour_at_the_threshold_and_none_below(threshold, levels):
    grey = Image.new("RGB", (480, 480), (128, 128, 128))
    ours = overlay(grey, ramp(480, 480), view="contour", threshold=threshold)
    touched = np.flatnonzero((np.asarray(ours) != 128).any(axis=(0, 2)))
    lines = np.split(touched, np.flatnonzero(np.diff(touched) > 1) + 1)
    expected = [479 * level for level in levels]
    assert [line.mean() for line in lines] == pytest.approx(expected, abs=0.6)


def test_below_the_threshold_there_is_no_colour():
    picture, unit = photograph(), ramp()
    ours = np.asarray(overlay(picture, unit, threshold=0.5))
    below = unit < 0.5
    assert np.array_equal(ours[below], np.asarray(picture)[below])
    assert np.array_equal(ours[~below], np.asarray(overlay(picture, unit))[~below])
    heat = overlay(picture, unit, view="heatmap", threshold=0.5)
    assert np.array_equal(np.asarray(heat)[..., 3] == 0, below)
    both = overlay(picture, unit, threshold=0.5, mask=half_mask())
    assert np.array_equal(np.asarray(both)[:, 40:], np.asarray(picture)[:, 40:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_neighbour_and_the_bar_stand_upright_for_the_viewer(orientation):
    picture, unit = photograph(200, 300), ramp(200, 300)
    stored = as_stored(picture, orientation)
    stored_unit = np.asarray(as_stored(Image.fromarray(unit), orientation))
    for view in VIEWS:
        ours = overlay(stored, stored_unit, view=view, color_bar=True, orientation=orientation)
        straight = overlay(picture, unit, view=view, color_bar=True)
        assert np.array_equal(upright(ours, orientation), straight)


@pytest.mark.parametrize("view", VIEWS)
def test_the_colour_bar_is_an_addition_to_the_right(view):
    picture, unit = photograph(200, 300), ramp(200, 300)
    plain = overlay(picture, unit, view=view)
    barred = overlay(picture, unit, view=view, color_bar=True, color_bar_range=(0, 12.3456))
    assert np.array_equal(barred.crop((0, 0, *plain.size)), plain)
    panel = np.asarray(barred)[:, plain.width :, :3]
    assert panel.shape[1] < 100
    # Its top is the colour of 1, its bottom that of 0, and there is dark text on white.
    last = 237 if view in ("overlay", "side_by_side") else 255
    colours = {tuple(int(c) for c in pixel) for pixel in panel.reshape(-1, 3)}
    assert tuple(int(c) for c in colormap("turbo")[last]) in colours
    assert tuple(int(c) for c in colormap("turbo")[0]) in colours
    column = panel[:, 10]
    top, bottom = (
        int(np.flatnonzero((column == colormap("turbo")[i]).all(axis=1))[0]) for i in (last, 0)
    )
    assert top < bottom
    assert (panel == 255).all(axis=2).mean() > 0.4


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 0.0), (1e-9, 4.5e-7), (-1e12, 1e30)])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (20, 400), (400, 20)])
def test_small_and_odd_pictures_get_a_bar_too(size, limits):
    barred = overlay(photograph(*size), ramp(*size), color_bar=True, color_bar_range=limits)
    assert barred.width > size[1]
    assert barred.height >= size[0]


def test_what_rounding_leaves_is_nothing_on_the_bar():
    """A map that falls to 6.7e-34 falls to 0."""
    picture, unit = photograph(200, 300), ramp(200, 300)
    zero, rest, small = (
        overlay(picture, unit, color_bar=True, color_bar_range=(low, 1.0))
        for low in (0.0, 6.7e-34, 0.001)
    )
    assert np.array_equal(zero, rest)
    assert small.size != zero.size or not np.array_equal(zero, small)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_photographs_of_any_mode_are_shown_as_rgb(mode):
    picture = photograph().convert(mode)
    assert np.array_equal(overlay(picture, np.zeros(SIZE)), picture.convert("RGB"))


def test_the_photograph_follows_the_size_of_the_map():
    assert overlay(photograph(500, 700), ramp(50, 70)).size == (70, 50)


def test_the_photograph_and_the_map_are_left_alone():
    picture, unit = photograph(), ramp()
    before = np.asarray(picture).copy(), unit.copy()
    for view in VIEWS:
        overlay(picture, unit, view=view, mask=half_mask(), color_bar=True)
    assert np.array_equal(picture, before[0])
    assert np.array_equal(unit, before[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 1.2},
        {"alpha": -0.1},
        {"alpha": float("nan")},
        {"threshold": 2.0},
        {"view": "film"},
        {"colormap": "hot"},
        {"mask": np.ones((3, 3), dtype=bool)},
        {"unit": np.zeros(5)},
        {"unit": np.zeros((0, 5))},
    ],
)
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(InvalidRequest):
        overlay(**{"picture": photograph(), "unit": ramp(), **wrong})


def test_a_colour_bar_without_a_range_has_one_number() -> None:
    """A map without evidence: three times 0 beside all colours would look like a scale."""

    def labelled(limits: tuple[float, float]) -> list[bool]:
        bar = with_color_bar(Image.new("RGB", (200, 300), "white"), "turbo", limits)
        ink = np.asarray(bar.convert("L"))[:, -12:] < 128  # the right end of the shortest number
        return [bool(part.any()) for part in (ink[:60], ink[120:180], ink[-60:])]

    assert labelled((0.0, 0.0)) == [False, False, True]
    assert labelled((0.0, 1.0))[2] is False  # the longest number is in the middle
    assert labelled((0.0, 1.0))[1]
