"""Drawings of arrays: what is in a cell of the array, and of the map, lands in its place."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from camserve.maps.canvases import LONG_SIDE_PX, canvas_of
from camserve.maps.captions import text_width
from camserve.maps.grids import Grid
from camserve.maps.overlay import overlay
from camserve.maps.planes import Raster, Slices
from camserve.maps.resample import resample
from camserve.maps.sampler import Sampler
from camserve.maps.sketches import raster_axes, sketch_of
from camserve.maps.timelines import Carpet, Curves

METHODS = ["nearest", "linear", "bicubic"]


def canvas(array, letters, order=None, size=LONG_SIDE_PX):
    """Of an array (C, *S) in the model's order."""
    grid = Grid(letters, array.shape[1:], order or tuple(range(len(letters))))
    return canvas_of(grid, sketch_of(array.astype(np.float32), grid), size)


def shown(made, cells, method="nearest"):
    """A map, one value for each cell of the array or of a coarser grid, on the drawing."""
    return made.lay_out(made.sampler.using(method)(np.asarray(cells, np.float32)))


def gray(made):
    return np.asarray(made.draw().convert("L")).astype(int)


def pixels_of(index, cells, pixels):
    """The pixels whose centres lie in a cell, by the rule of three."""
    centres = (np.arange(pixels) + 0.5) * cells / pixels
    return np.flatnonzero((centres >= index) & (centres < index + 1))


# curves and carpets


def test_a_hot_step_of_a_sequence_is_a_peak_in_its_column():
    for step in (0, 7, 18):
        array = np.zeros((1, 19))
        array[0, step] = 1
        made = canvas(array, "T")
        assert isinstance(made, Curves)
        columns = pixels_of(step, 19, made.size[1])
        ink = np.argwhere(gray(made)[: made.plot_size[0]] < 128)
        peak = ink[ink[:, 0] == ink[:, 0].min(), 1].mean()
        assert abs(peak - columns.mean()) < made.size[1] / 100
        laid = shown(made, array[0])
        height = made.plot_size[0]
        assert np.array_equal(np.flatnonzero(laid[0]), columns)
        assert (laid[:height] == laid[0]).all()
        assert not laid[height:].any()
        assert np.array_equal(made.mask[:, 0], np.arange(made.size[0]) < height)


def test_curves_rise_with_their_values_and_each_keeps_its_lane():
    """Each lane is scaled by itself, and the first channel is on top."""
    ramp = np.linspace(0, 1, 50)
    made = canvas(np.stack([ramp, 1e6 * ramp[::-1], np.zeros(50)]), "T")
    ink = gray(made)[: made.plot_size[0]] < 128
    lane = made.plot_size[0] // 3
    rows = np.arange(lane)[:, None]
    heights = [
        -(rows * part).sum(0) / np.maximum(part.sum(0), 1)
        for part in (ink[:lane], ink[lane : 2 * lane], ink[2 * lane : 3 * lane])
    ]
    inner = slice(20, -20)
    assert (np.diff(heights[0][inner]) >= -0.6).all()
    assert (np.diff(heights[1][inner]) <= 0.6).all()
    assert heights[0][-30] - heights[0][30] > lane / 2
    assert abs(heights[2][inner] + lane / 2).max() < lane / 8


def test_a_peak_of_one_step_in_a_hundred_thousand_is_seen_in_curve_and_map():
    steps = 100_000
    array = np.zeros((1, steps))
    array[0, 33_333] = 1
    made = canvas(array, "T")
    column = 33_333 * made.size[1] // steps
    ink = gray(made)[: made.plot_size[0]] < 200
    top = np.flatnonzero(ink.any(1))[0]
    assert abs(np.flatnonzero(ink[top]).mean() - column) < 2
    for method in METHODS:
        laid = shown(made, array[0], method)
        assert laid[0].argmax() == column
        assert laid[0].max() > (0.9 if method == "nearest" else 0.7)


def test_a_line_stays_dark_on_the_strongest_colour():
    """Where the evidence is, the reader looks at the curve."""
    array = np.sin(np.arange(60) / 5)[None]
    made = canvas(array, "T")
    unit = np.ones(made.size, np.float32)
    drawn = overlay(made.draw(), unit, mask=made.mask, ink=made.ink, panels=made.panels)
    levels = np.asarray(drawn.convert("L")).astype(int)[: made.plot_size[0]]
    before = gray(made)[: made.plot_size[0]]
    assert levels[before < 60].max() < 45
    assert levels[before > 250].min() > 70
    # colours alone on white are those of any photograph
    white = overlay(Image.new("RGB", made.size[::-1], "white"), unit, mask=made.mask)
    paper = before > 254
    assert np.array_equal(np.asarray(drawn)[: made.plot_size[0]][paper],
                          np.asarray(white)[: made.plot_size[0]][paper])  # fmt: skip


def test_a_band_of_ink_lets_the_colours_through():
    t = np.arange(16_000) / 16_000
    wave = canvas(np.sin(2 * np.pi * 440 * t)[None], "T")
    line = canvas(np.sin(2 * np.pi * t)[None], "T")
    assert gray(wave)[: wave.plot_size[0]].min() > 90
    assert gray(line)[: line.plot_size[0]].min() < 60


def test_many_channels_are_a_carpet_of_sharp_cells():
    array = np.zeros((20, 10))
    array[3, 7] = 1
    made = canvas(array, "T", size=200)
    assert isinstance(made, Carpet)
    hot = np.argwhere(gray(made)[: made.plot_size[0]] > 200)
    assert np.array_equal(np.unique(hot[:, 1]), pixels_of(7, 10, 200))
    rows = pixels_of(3, 20, made.plot_size[0])
    assert abs(hot[:, 0].mean() - rows.mean()) < 1
    assert np.array_equal(np.flatnonzero(shown(made, array[3])[0]), pixels_of(7, 10, 200))


# rasters


@pytest.mark.parametrize(
    ("letters", "order", "turned"),
    [("SS", None, False), ("ST", None, False), ("ST", (1, 0), False), ("TS", None, True),
     ("TS", (1, 0), True)],
)  # fmt: skip
def test_a_hot_cell_of_a_plane_is_where_the_map_has_it(letters, order, turned):
    array = np.zeros((1, 12, 17))
    array[0, 4, 11] = 1
    made = canvas(array, letters, order, 400)
    assert isinstance(made, Raster)
    height, width = made.plot_size
    place = ((11, 17), (4, 12)) if turned else ((4, 12), (11, 17))
    box = np.ix_(pixels_of(*place[0], height), pixels_of(*place[1], width))
    expected = np.zeros(made.size, dtype=bool)
    expected[box] = True
    assert np.array_equal(shown(made, array[0]) > 0.5, expected)
    assert np.array_equal((gray(made) > 128)[:height], expected[:height])


def test_cells_stay_sharp_in_any_size():
    array = np.random.default_rng(0).integers(0, 256, (1, 9, 13)).astype(np.float64)
    for size in (13, 26, 100, 333, 801):
        made = canvas(array, "SS", size=size)
        levels = np.asarray(made.sketch)
        rows = [pixels_of(index, 9, made.size[0]) for index in range(9)]
        columns = [pixels_of(index, 13, made.size[1]) for index in range(13)]
        for r, c in itertools.product(range(9), range(13)):
            inner = gray(made)[np.ix_(rows[r][1:-1], columns[c][1:-1])]
            assert (inner == levels[r, c]).all()


def test_a_map_on_a_plane_is_the_full_resampling():
    signed = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for letters, order in (("SS", (0, 1)), ("TS", (0, 1)), ("ST", (1, 0))):
        made = canvas(np.zeros((1, 12, 17)), letters, order, 300)
        axes = raster_axes(made.grid)
        for method in METHODS:
            expected = resample(signed.transpose(axes), made.plot_size, method)
            laid = shown(made, signed, method)[: made.plot_size[0]]
            np.testing.assert_allclose(laid, expected, atol=1e-5)


def test_of_more_cells_than_pixels_the_strongest_is_shown():
    cells = np.zeros((600, 900), np.float32)
    cells[301, 777] = 1
    made = canvas(cells[None], "SS", size=90)
    laid = shown(made, cells)
    assert np.argwhere(laid == 1).tolist() == [[30, 77]]


def test_no_cell_is_lost_however_many_there_are_for_a_pixel():
    for cells in (91, 130, 179, 181, 400):
        hot = np.eye(cells, dtype=np.float32)
        made = canvas(hot[:1], "T", size=90)
        for number in range(cells):
            laid = shown(made, hot[number])[0]
            assert laid.max() == 1, (cells, number)
            assert abs(laid.argmax() - (number + 0.5) * 90 / cells) < 1.5


def test_a_thread_of_a_plane_takes_little_room():
    """Enlarged to a hundred rows before it is made short, it would take gigabytes."""
    cells = np.zeros((1, 1_000_000), np.float32)
    cells[0, 123_456] = 1
    made = canvas(cells[None], "SS")
    tracemalloc.start()
    try:
        laid = shown(made, cells, "bicubic")
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()
    assert np.unravel_index(laid.argmax(), laid.shape)[1] == 123_456 * made.size[1] // 1_000_000


# slices


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("size", [200, 640, 1201])
def test_a_hot_voxel_of_a_film_is_on_its_frame(order, size):
    array = np.zeros((1, 7, 6, 9))
    array[0, 4, 2, 5] = 1
    made = canvas(array, "TSS", order, size)
    assert isinstance(made, Slices)
    assert made.cuts.chosen == (tuple(range(7)),)
    rows, columns = made.panels[4]
    expected = np.zeros(made.size, dtype=bool)
    height, width = made.tile
    expected[
        np.ix_(pixels_of(2, 6, height) + rows.start, pixels_of(5, 9, width) + columns.start)
    ] = True
    assert np.array_equal(shown(made, array[0]) > 0.5, expected)
    bright = gray(made) > 128
    bright[~made.mask] = False
    assert np.array_equal(bright, expected)


CUBES = {
    "SSS": ((40, 30, 20), (0, 1, 2)),
    "SSS, last axis": ((40, 50, 8), (0, 1, 2)),
    "TSS": ((50, 12, 16), (0, 1, 2)),
    "TSS, time last": ((50, 12, 16), (1, 2, 0)),
    "TSSS": ((6, 20, 12, 16), (0, 1, 2, 3)),
    "TSSS, turned": ((6, 20, 12, 16), (3, 0, 1, 2)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CUBES)
def test_slices_of_a_map_are_those_of_the_full_resampling(name, method):
    size, order = CUBES[name]
    made = canvas(np.zeros((1, *size)), name.partition(",")[0], order, 500)
    signed = np.random.default_rng(0).normal(size=[-(-side // 3) for side in size])
    signed = signed.astype(np.float32)
    whole = [made.tile[made.cuts.plane.index(axis)] if axis in made.cuts.plane else side
             for axis, side in enumerate(size)]  # fmt: skip
    full = Sampler.whole(whole, method)(signed)
    laid = shown(made, signed, method)
    indices = list(itertools.product(*made.cuts.chosen))
    assert len(indices) == len(made.panels)
    for panel, index in zip(made.panels, indices, strict=True):
        cut = tuple(
            index[made.cuts.axes.index(axis)] if axis in made.cuts.axes else slice(None)
            for axis in range(len(size))
        )
        np.testing.assert_allclose(laid[panel], full[cut], atol=1e-5)
    assert not laid[~made.mask].any()


@pytest.mark.parametrize("name", CUBES)
@pytest.mark.parametrize("size", [150, 640, 1200])
def test_slices_stand_in_reading_order_without_touching(name, size):
    cells, order = CUBES[name]
    made = canvas(np.zeros((1, *cells)), name.partition(",")[0], order, size)
    places = [(rows.start, columns.start) for rows, columns in made.panels]
    assert places == sorted(places)
    covered = np.zeros(made.size, dtype=int)
    for rows, columns in made.panels:
        assert rows.start >= 0
        assert columns.start >= 0
        assert (rows.stop, columns.stop) <= made.size
        assert (rows.stop - rows.start, columns.stop - columns.start) == made.tile
        covered[rows, columns] += 1
    assert covered.max() == 1
    for (above, left), (below, right) in itertools.combinations(made.panels, 2):
        apart = below.start - above.stop if below.start >= above.stop else right.start - left.stop
        assert apart >= 2
    drawn = gray(made)
    if not made.caption:
        assert (drawn[~made.mask] == 255).all()
    else:  # small print above each slice, and nothing else between them
        gaps = np.where(made.mask, 255, drawn)
        for rows, columns in made.panels:
            top = rows.start - round(1.4 * made.caption)
            # a letter may lean out of its box
            strip = gaps[top : rows.start, max(0, columns.start - 2) : columns.stop + 2]
            assert 0.01 < (strip < 200).mean() < 0.5
            strip[:] = 255
        assert (gaps == 255).all()


def test_captions_only_where_they_are_legible():
    volume = np.zeros((1, 16, 32, 32))
    assert canvas(volume, "SSS", size=800).caption >= 14
    assert canvas(volume, "SSS", size=256).caption >= 11
    assert canvas(volume, "SSS", size=120).caption == 0
    # neither wider than its slice, nor as high as it
    for shape in ((10, 60, 8), (5, 8, 60), (100, 30, 100)):
        for size in range(50, 900, 50):
            made = canvas(np.zeros((1, *shape)), "SSS", size=size)
            if made.caption:
                assert made.caption <= made.tile[0] / 3
                assert text_width(made.cuts.captions, made.caption) <= made.tile[1]


def test_the_shape_of_voxels_is_kept():
    made = canvas(np.zeros((1, 24, 128, 96)), "SSS", size=1200)
    height, width = made.tile
    assert height / width == pytest.approx(128 / 96, rel=0.02)
    thread = canvas(np.zeros((1, 4, 1, 1000)), "SSS", (0, 1, 2), 800)
    assert min(thread.tile) >= 1


SHAPES = [
    ("T", (1, 19)), ("T", (12, 300)), ("T", (40, 300)), ("T", (1, 1)),
    ("SS", (1, 30, 40)), ("SS", (3, 40, 30)), ("SS", (1, 1, 5000)), ("SS", (1, 5000, 1)),
    ("ST", (1, 64, 200)), ("ST", (1, 64, 9)), ("TS", (1, 200, 64)), ("ST", (1, 1, 5000)),
    ("SSS", (1, 32, 32, 32)), ("SSS", (1, 24, 128, 96)), ("SSS", (1, 1, 1, 1)),
    ("SSS", (1, 3, 500, 2)),
    ("TSS", (3, 8, 64, 64)), ("TSS", (1, 500, 9, 100)), ("TSSS", (1, 6, 10, 24, 24)),
]  # fmt: skip


@pytest.mark.parametrize(("letters", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 16, 64, 256, 800, 1200])
def test_a_drawing_has_the_size_that_was_asked_for(letters, shape, size):
    array = np.random.default_rng(0).random(shape)
    made = canvas(array, letters, size=size)
    drawn = made.draw()
    assert (drawn.height, drawn.width) == made.size
    laid = shown(made, np.ones(shape[1:]))
    assert laid.shape == made.size
    assert (laid[made.mask if made.mask is not None else ...] == 1).all()
    if size >= 64:
        assert 0.85 * size <= max(made.size) <= size
        assert min(made.size) >= size / 9


@pytest.mark.parametrize(
    ("letters", "shape", "order", "size", "tile"),
    [
        ("SS", (12, 17), (0, 1), (50, 70), (50, 70)),
        ("ST", (12, 17), (1, 0), (70, 50), (50, 70)),
        ("SSS", (32, 20, 24), (0, 1, 2), (8, 60, 72), (60, 72)),
        ("TSS", (32, 20, 24), (1, 2, 0), (60, 72, 8), (60, 72)),
        ("SSS", (40, 40, 10), (0, 1, 2), (30, 31, 10), (30, 31)),
    ],
)
def test_a_size_for_each_axis_is_in_the_clients_order(letters, shape, order, size, tile):
    made = canvas(np.zeros((1, *shape)), letters, order, size)
    if len(shape) == 2:
        assert made.size == tile
        return
    assert made.tile == tile
    asked = dict(zip(order, size, strict=True))[made.cuts.axes[0]]
    assert len(made.panels) <= asked
    assert len(made.panels) >= min(asked, 10) / 2
    # the slices are still the right ones
    volume = np.zeros((1, *shape))
    index = made.cuts.chosen[0][-1]
    np.moveaxis(volume[0], made.cuts.axes[0], 0)[index] = 1
    drawn = gray(canvas(volume, letters, order, size))
    assert drawn[made.panels[-1]].min() == 255
    assert all(drawn[panel].max() == 0 for panel in made.panels[:-1])


def test_contours_know_no_edges_of_slices():
    """Those of each slice are what its own picture would have."""
    made = canvas(np.random.default_rng(0).random((1, 6, 20, 20)), "SSS", size=400)
    smooth = np.exp(
        -(((np.mgrid[:6, :20, :20] - np.array([3, 8, 12]).reshape(3, 1, 1, 1)) / 5) ** 2).sum(0)
    )
    unit = shown(made, smooth, "bicubic").clip(0, 1)
    picture = made.draw()
    drawn = np.asarray(overlay(picture, unit, mask=made.mask, view="contour", panels=made.panels))
    assert not np.array_equal(drawn, picture)
    for rows, columns in made.panels:
        box = (columns.start, rows.start, columns.stop, rows.stop)
        alone = overlay(picture.crop(box), unit[rows, columns], view="contour")
        assert np.array_equal(drawn[rows, columns], alone)
    assert np.array_equal(drawn[~made.mask], np.asarray(picture)[~made.mask])


def test_time_is_numbered_below():
    """Ticks at round steps, in the middle of their columns."""
    for letters, shape in (("T", (1, 19)), ("ST", (1, 30, 60)), ("T", (1, 5000))):
        made = canvas(np.zeros(shape), letters)
        below = gray(made)[made.plot_size[0]]
        steps = made.grid.size[-1]
        ticks = [group.mean() for group in np.split(
            np.flatnonzero(below < 200),
            np.flatnonzero(np.diff(np.flatnonzero(below < 200)) > 1) + 1)]  # fmt: skip
        numbers = np.array(ticks) * steps / made.size[1] - 0.5
        every = round(np.diff(numbers).mean())
        assert every in {d * 10**k for d in (1, 2, 5) for k in range(5)}
        assert len(ticks) == math.ceil(steps / every)
        np.testing.assert_allclose(numbers, np.arange(len(ticks)) * every, atol=1.5 * steps / 800)
