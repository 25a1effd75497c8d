"""Grids of arrays: the client's order, sizes, and what is fitted into a room."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camserve.errors import MalformedRequest
from camserve.maps.geometry import Geometry, plan
from camserve.maps.grids import Grid, geometry_from_json, shrunk_to
from camserve.maps.resample import resample

GRIDS = [
    Grid("T", (19,), (0,)),
    Grid("SS", (5, 8), (0, 1)),
    Grid("ST", (5, 8), (1, 0)),
    *(Grid("TSS", (3, 4, 5), order) for order in itertools.permutations(range(3))),
    Grid("TSSS", (2, 3, 4, 5), (1, 2, 3, 0)),
]


def clients(grid: Grid, values: np.ndarray) -> np.ndarray:
    """By einsum: axis i of the client is axis order[i] of the model."""
    names = "abcd"[: len(grid.size)]
    return np.einsum(f"{names}->{''.join(names[axis] for axis in grid.order)}", values)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sizes_letters_and_maps_in_the_clients_order(grid):
    values = np.random.default_rng(0).normal(size=grid.size)
    expected = clients(grid, values)
    np.testing.assert_array_equal(grid.arranged(values), expected)
    assert grid.sent_size == expected.shape


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", ["nearest", "linear", "bicubic"])
def test_a_map_is_sampled_to_a_size_in_the_clients_order(grid, method):
    signed = np.random.default_rng(1).normal(size=[max(1, side // 2) for side in grid.size])
    wanted = tuple(side + number for number, side in enumerate(grid.sent_size))
    found = grid.arranged(grid.sampler(wanted).using(method)(signed))
    # arranged first, resampled then
    np.testing.assert_allclose(found, resample(clients(grid, signed), wanted, method), atol=1e-12)
    own = grid.arranged(grid.sampler().using(method)(signed))
    assert own.shape == grid.sent_size


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_travels_comes_back(grid):
    again = geometry_from_json(json.loads(json.dumps(grid.to_json())))
    assert again == grid


def test_pictures_travel_as_pictures():
    geometry = plan((40, 48), 6, mode="letterbox", input_size=(32, 32))
    found = geometry_from_json(json.loads(json.dumps(geometry.to_json())))
    assert isinstance(found, Geometry)
    assert found == geometry


GOOD = {"kind": "grid", "letters": "TS", "size": [3, 4], "order": [1, 0]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"letters": None},
        {"letters": "T"},
        {"size": [3]},
        {"size": 3},
        {"size": [3, 0]},
        {"size": ["a", "b"]},
        {"order": [0, 0]},
        {"order": [1, 2]},
        {"order": None},
        {"size": [], "order": [], "letters": ""},
        {"kind": "picture"},
    ],
    ids=str,
)
def test_what_is_no_grid_is_malformed(wrong: dict[str, Any]):
    geometry_from_json(GOOD)
    with pytest.raises(MalformedRequest, match="not a geometry"):
        geometry_from_json(GOOD | wrong)
    for name in ("letters", "size", "order"):
        with pytest.raises(MalformedRequest):
            geometry_from_json({key: value for key, value in GOOD.items() if key != name})


def test_the_long_side_is_what_was_asked_and_the_shape_stays():
    grid = Grid("TSS", (10, 33, 64), (1, 2, 0))
    assert grid.scaled(64) == (33, 64, 10)
    assert grid.scaled(128) == (66, 128, 20)
    assert grid.scaled(6) == (3, 6, 1)
    for asked in range(1, 300):
        for longest in (33, 57, 99, 101):
            assert max(Grid("SS", (longest, 7), (0, 1)).scaled(asked)) == asked


@settings(max_examples=300)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=4),
    st.floats(0.5, 1e7),
)
def test_what_is_shrunk_fits_and_keeps_its_shape(size, cells):
    fitting = shrunk_to(tuple(size), cells)
    assert math.prod(fitting) <= max(cells, 1)
    assert min(fitting) >= 1
    if math.prod(size) <= cells:
        assert fitting == tuple(size)
        return
    shares = [after / before for after, before in zip(fitting, size, strict=True)]
    for share, before, after in zip(shares, size, fitting, strict=True):
        # all alike, but for rounding down and for what cannot be less than one
        assert share <= max(shares)
        assert after == 1 or (after + 1) / before >= max(
            (one for one, kept in zip(shares, fitting, strict=True) if kept > 1), default=0
        )


def test_room_is_used():
    for size, cells in (((100, 100, 100), 1e5), ((1, 10**6), 1000), ((7, 7, 7, 7), 2000)):
        fitting = shrunk_to(size, cells)
        assert math.prod(fitting) > cells / 2, fitting


def test_an_axis_of_one_leaves_its_share_to_the_others():
    """Shrinking all axes by one factor would leave a thread a thousand times too long."""
    assert math.prod(shrunk_to((1, 1, 10_000_000), 1000)) in range(900, 1001)
