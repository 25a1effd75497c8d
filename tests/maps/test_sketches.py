"""What is kept of an array: a pixel a cell, bounded, whatever the numbers."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from camserve.maps.cuts import MOST_SLICES, cuts_of
from camserve.maps.grids import Grid
from camserve.maps.sketches import raster_axes, sketch_of

LINE = Grid("T", (40,), (0,))


def test_curves_keep_each_channel_on_its_own_scale():
    array = np.random.default_rng(0).normal(size=(3, 40)) * [[1], [1000], [1e-6]]
    sketch = sketch_of(array.astype(np.float32), LINE)
    assert (sketch.dtype, sketch.shape) == (np.uint16, (6, 40))
    for channel, (low, high) in zip(array, sketch.reshape(3, 2, 40), strict=True):
        unit = (channel - channel.min()) / np.ptp(channel)
        np.testing.assert_allclose(low / 65535, unit, atol=1e-4)
        np.testing.assert_array_equal(low, high)


def test_of_a_long_curve_no_peak_is_lost():
    steps = 1_000_003
    array = np.zeros((2, steps), np.float32)
    array[0, 123_456], array[0, 987_654], array[1, 5] = 1.0, -1.0, 7.0
    sketch = sketch_of(array, Grid("T", (steps,), (0,))).reshape(2, 2, -1)
    columns = sketch.shape[2]
    assert 1000 < columns <= 4096
    assert np.flatnonzero(sketch[0, 1] == 65535).tolist() == [123_456 * columns // steps]
    assert np.flatnonzero(sketch[0, 0] == 0).tolist() == [987_654 * columns // steps]
    assert np.flatnonzero(sketch[1, 1] == 65535).tolist() == [0]


def test_many_channels_are_gray_levels():
    array = np.random.default_rng(0).normal(size=(17, 40)).astype(np.float32)
    sketch = sketch_of(array, LINE)
    assert (sketch.dtype, sketch.shape) == (np.uint8, (17, 40))
    for channel, levels in zip(array, sketch, strict=True):
        order = np.argsort(channel)
        assert (np.diff(levels[order].astype(int)) >= 0).all()
        assert (levels.min(), levels.max()) == (0, 255)
    many = sketch_of(np.zeros((5000, 3000), np.float32), Grid("T", (3000,), (0,)))
    assert many.shape[0] <= 256
    assert many.shape[1] <= 2048


@pytest.mark.parametrize(
    ("letters", "order", "axes"),
    [("SS", (0, 1), (0, 1)), ("ST", (0, 1), (0, 1)), ("ST", (1, 0), (0, 1)),
     ("TS", (0, 1), (1, 0)), ("TS", (1, 0), (1, 0))],
)  # fmt: skip
def test_two_dimensions_are_as_sent_but_time_runs_to_the_right(letters, order, axes):
    grid = Grid(letters, (5, 8), order)
    assert raster_axes(grid) == axes
    array = np.random.default_rng(0).random((2, 5, 8)).astype(np.float32)
    mean = array.mean(0).transpose(axes)
    sketch = sketch_of(array, grid)
    assert sketch.shape == mean.shape
    expected = (mean - mean.min()) / np.ptp(mean)
    np.testing.assert_allclose(sketch / 255, expected, atol=0.02)


def test_colours_are_three_channels_over_two_dimensions_of_space_alone():
    levels = np.random.default_rng(0).integers(0, 256, (3, 6, 7)).astype(np.float32)
    levels[:, 0, 0], levels[:, 5, 6] = 0, 255
    sketch = sketch_of(levels, Grid("SS", (6, 7), (0, 1)))
    assert np.abs(sketch.astype(float) - levels.transpose(1, 2, 0)).max() <= 3
    assert sketch_of(levels, Grid("ST", (6, 7), (0, 1))).ndim == 2
    assert sketch_of(levels[:2], Grid("SS", (6, 7), (0, 1))).ndim == 2
    assert sketch_of(levels[[0, 1, 2, 2]], Grid("SS", (6, 7), (0, 1))).ndim == 2
    assert sketch_of(levels[..., None], Grid("SSS", (6, 7, 1), (0, 1, 2))).ndim == 2
    film = np.stack([levels, levels], axis=1)
    sketch = sketch_of(film, Grid("TSS", (2, 6, 7), (0, 1, 2)))
    assert sketch.shape == (12, 7, 3)
    assert np.abs(sketch[6:].astype(float) - levels.transpose(1, 2, 0)).max() <= 3


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_slices_are_those_of_the_array(order):
    """The client's array is sent in any order; the model's is (T, h, w)."""
    film = np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)
    grid = Grid("TSS", film.shape, order)
    sketch = sketch_of(film[None], grid).reshape(5, 3, 4)
    expected = (film - film.min()) / np.ptp(film)
    np.testing.assert_allclose(sketch / 255, expected, atol=0.02)


@pytest.mark.parametrize("total", [1, 2, 15, 16, 17, 24, 31, 32, 33, 100, 1000])
def test_slices_are_evenly_spread_in_the_middle(total):
    (chosen,) = cuts_of(Grid("TSS", (total, 4, 4), (0, 1, 2))).chosen
    assert len(chosen) <= MOST_SLICES
    assert len(chosen) > MOST_SLICES / 2 or len(chosen) == total
    assert len({b - a for a, b in itertools.pairwise(chosen)}) <= 1
    assert chosen[0] >= 0
    assert chosen[-1] < total
    assert abs(chosen[0] - (total - 1 - chosen[-1])) <= 1


@pytest.mark.parametrize(
    ("letters", "size", "order", "axes", "caption"),
    [
        ("TSS", (3, 40, 40), (0, 1, 2), (0,), "frame 0"),
        ("TSS", (300, 4, 4), (1, 2, 0), (0,), "frame 7"),
        ("SSS", (20, 30, 30), (0, 1, 2), (0,), "slice 0"),
        ("SSS", (30, 30, 20), (0, 1, 2), (0,), "slice 0"),  # not much shorter
        ("SSS", (30, 30, 15), (0, 1, 2), (2,), "[:, :, 0]"),
        ("SSS", (60, 20, 50), (0, 1, 2), (1,), "[:, 0, :]"),
        ("TSSS", (6, 30, 30, 10), (0, 1, 2, 3), (0, 3), "frame 0, slice 0"),
        ("TSSS", (6, 30, 30, 10), (1, 2, 3, 0), (0, 3), "frame 0, slice 0"),
    ],
)
def test_which_axis_is_cut(letters, size, order, axes, caption):
    cuts = cuts_of(Grid(letters, size, order))
    assert cuts.axes == axes
    assert cuts.captions[0] == caption
    assert len(cuts.captions) == cuts.count
    assert sorted((*cuts.axes, *cuts.plane)) == list(range(len(size)))


def test_four_dimensions_are_pairs_of_a_frame_and_a_slice():
    array = np.random.default_rng(0).random((1, 3, 20, 4, 20)).astype(np.float32)
    cuts = cuts_of(Grid("TSSS", (3, 20, 4, 20), (0, 1, 2, 3)))
    assert (cuts.axes, cuts.chosen) == ((0, 2), ((0, 1, 2), (0, 1, 2, 3)))
    found = cuts.of(array)
    pairs = itertools.product(range(3), range(4))
    for one, (frame, cut) in zip(found, pairs, strict=True):
        np.testing.assert_array_equal(one, array[:, frame, :, cut])
    assert cuts.captions[5] == "frame 1, slice 1"
    many = cuts_of(Grid("TSSS", (100, 90, 90, 40), (0, 1, 2, 3)))
    assert [len(chosen) for chosen in many.chosen] == [4, 4]


def test_fewer_slices_are_some_of_those_that_were_kept():
    kept = cuts_of(Grid("SSS", (32, 32, 32), (0, 1, 2)))
    for count in (1, 2, 5, 8, 15):
        fewer = kept.fewer(count)
        assert set(fewer.chosen[0]) <= set(kept.chosen[0])
        assert 1 <= fewer.count <= count
    assert kept.fewer(16) is kept.fewer(1000) is kept


@pytest.mark.parametrize(
    ("letters", "shape"),
    [("T", (1, 30)), ("SS", (1, 5, 6)), ("SS", (3, 5, 6)), ("SSS", (2, 5, 6, 7))],
)
@pytest.mark.parametrize(
    "values", [(0, 0), (-3e38, 3e38), (1e-45, 0), (7, 7), (-1, 1e-30)], ids=str
)
def test_whatever_the_numbers(letters, shape, values):
    array = np.full(shape, values[0], np.float32)
    array.reshape(-1)[::3] = values[1]
    sketch = sketch_of(array, Grid(letters, shape[1:], tuple(range(len(letters)))))
    if values[0] == values[1]:
        assert len(np.unique(sketch)) == 1
    elif letters == "T":
        assert (sketch.min(), sketch.max()) == (0, 65535)


def test_a_few_outliers_have_no_say_in_the_gray_levels():
    plane = np.random.default_rng(0).random((1, 100, 100)).astype(np.float32)
    plane[0, 50, 50] = 1e6
    sketch = sketch_of(plane, Grid("SS", (100, 100), (0, 1)))
    assert sketch.std() > 60
    assert sketch[50, 50] == 255
    # but a single cell that differs is seen
    plane[:] = 0
    plane[0, 20, 30] = 1
    assert np.argwhere(sketch_of(plane, Grid("SS", (100, 100), (0, 1)))).tolist() == [[20, 30]]


@pytest.mark.parametrize(
    ("letters", "shape", "most"),
    [("T", (2, 4_000_000), 20_000), ("SS", (1, 3000, 3000), 1_100_000),
     ("SSS", (1, 40, 400, 500), 1_100_000), ("TSS", (3, 40, 300, 300), 3_200_000)],
)  # fmt: skip
def test_the_room_of_a_sketch_is_bounded(letters, shape, most):
    array = np.zeros(shape, np.float32)
    tracemalloc.start()
    try:
        sketch = sketch_of(array, Grid(letters, shape[1:], tuple(range(len(letters)))))
        assert tracemalloc.get_traced_memory()[1] < 6 * array.nbytes + 2e7
    finally:
        tracemalloc.stop()
    assert sketch.nbytes <= most


def test_large_planes_are_averaged_not_thinned():
    plane = np.full((1, 2048, 2048), 0.5, np.float32)
    plane[0, ::2, :1024] = 1.0  # every second row: the mean of each two is a half
    plane[0, 1::2, :1024] = 0.0
    plane[0, :, 2000:] = 1.0
    sketch = sketch_of(plane, Grid("SS", (2048, 2048), (0, 1)))
    assert sketch.shape == (1024, 1024)
    assert len(np.unique(sketch[:, :1000])) == 1
    assert (sketch[:, 1000:] == 255).all()
