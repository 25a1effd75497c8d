"""Scaling to [0, 1]: per map, by one range, masked, signed, flat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camserve.maps.resample import resample
from camserve.maps.scaling import to_unit, unit_ranges

A = np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32)
B = np.array([[0.0, 1.0], [1.0, 9.0]], dtype=np.float32)


def test_each_map_by_itself():
    first, second = to_unit([A, B])
    assert np.allclose(first, (A - 1) / 4)
    assert np.allclose(second, B / 9)
    assert unit_ranges([A, B]) == [(1.0, 5.0), (0.0, 9.0)]


def test_one_range_for_all_keeps_them_comparable():
    first, second = to_unit([A, B], limits=[(0.0, 9.0)] * 2)
    assert np.allclose(first, A / 9)
    assert np.allclose(second, B / 9)


def test_limits_can_be_given_and_what_lies_beyond_is_clipped():
    mask = np.array([[True, True], [True, False]])
    first, second = to_unit([A, B], limits=[(2.0, 4.0), (0.0, 2.0)], masks=[mask, None])
    assert np.allclose(first, [[0.0, 0.0], [0.5, 0.0]])
    assert np.allclose(second, [[0.0, 0.5], [0.5, 1.0]])
    assert not to_unit([A], limits=[(3.0, 3.0)])[0].any()
    with pytest.raises(ValueError, match="zip"):
        to_unit([A, B], limits=[(0.0, 1.0)])


def test_the_unseen_neither_counts_nor_shows():
    mask = np.array([[True, True], [True, False]])
    (unit,) = to_unit([A], masks=[mask])
    assert np.allclose(unit, [[0.0, 0.5], [1.0, 0.0]])
    zeros_outside = np.where(mask, A, 0)
    assert unit_ranges([zeros_outside], masks=[mask]) == [(1.0, 3.0)]
    assert unit_ranges([A, B], masks=[mask, None]) == [(1.0, 3.0), (0.0, 9.0)]
    assert unit_ranges([A], masks=[np.zeros_like(mask)]) == [(0.0, 0.0)]


def test_negative_evidence_is_clipped():
    (unit,) = to_unit([np.array([[-4.0, 1.0, 2.0]])])
    assert np.allclose(unit, [[0.0, 0.5, 1.0]])
    (unit,) = to_unit([np.array([[-4.0, -1.0]])])
    assert not unit.any()
    assert unit_ranges([np.array([[-4.0, -1.0]])]) == [(0.0, 0.0)]


@pytest.mark.parametrize("value", [0.0, 1e-8, 3.7, 1e6])
def test_flat_maps_become_zeros_resampled_or_not(value):
    flat = np.full((7, 7), value, dtype=np.float32)
    assert not to_unit([flat])[0].any()
    assert not to_unit([resample(flat, (50, 61), "bicubic")])[0].any()


def test_what_is_not_finite_becomes_zero_and_does_not_count():
    broken = np.array([[np.nan, np.inf], [1.0, 3.0]], dtype=np.float32)
    (unit,) = to_unit([broken])
    assert np.allclose(unit, [[0.0, 0.0], [0.0, 1.0]])
    assert not to_unit([np.full((2, 2), np.nan)])[0].any()


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=5),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=32),
    )
)
def test_the_result_is_always_within_the_unit_interval(values):
    before = values.copy()
    (unit,) = to_unit([values])
    assert unit.dtype == np.float32
    assert unit.shape == values.shape
    assert 0 <= unit.min() <= unit.max() <= 1
    assert np.array_equal(values, before, equal_nan=True)


def test_very_small_maps_have_a_picture_too():
    assert to_unit([np.array([0.0, 1e-42], dtype=np.float32)])[0].tolist() == [0.0, 1.0]
    assert to_unit([np.array([0.0, 1e-300])])[0].tolist() == [0.0, 1.0]


def test_a_mask_for_each_map():
    with pytest.raises(ValueError, match="shorter"):
        to_unit([A, B], masks=[None])
