"""Colour tables against matplotlib's, entry by entry."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camserve.errors import InvalidRequest
from camserve.maps.colormaps import COLORMAPS, DEFAULT_COLORMAP, colormap, colour_image, quantise


def colours(unit, name=DEFAULT_COLORMAP):
    return np.asarray(colour_image(quantise(unit), name))


@pytest.mark.parametrize("name", COLORMAPS)
def test_the_tables_are_the_published_ones(name):
    theirs = mpl.colormaps[name](np.arange(256), bytes=True)[:, :3]
    # matplotlib's gray truncates 255 * (i / 255), so that some of its greys are one too dark.
    allowed = 1 if name == "gray" else 0
    assert np.abs(colormap(name).astype(int) - theirs).max() <= allowed
    assert colormap(name).shape == (256, 3)
    assert not colormap(name).flags.writeable


def test_gray_is_the_value_itself():
    assert np.array_equal(colormap("gray")[:, 1], np.arange(256))


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_value_looks_up_the_nearest_entry(name):
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(colours(unit, name).reshape(256, 3), colormap(name))
    unit[0, :2] = 0.49 / 255, 0.51 / 255
    assert np.array_equal(colours(unit, name)[0, :2], colormap(name)[:2])


@given(st.floats(allow_nan=False, width=32))
def test_values_beyond_the_range_are_clipped(value):
    # Also for the infinite and the subnormal.
    pixel = colours(np.full((1, 1), value, dtype=np.float32))[0, 0]
    expected = colormap(DEFAULT_COLORMAP)[round(min(max(value, 0.0), 1.0) * 255)]
    assert np.abs(pixel.astype(int) - expected).max() <= 8


def test_not_a_number_is_zero():
    assert np.array_equal(colours(np.full((1, 1), np.nan))[0, 0], colormap(DEFAULT_COLORMAP)[0])


def test_an_unknown_name_is_refused_with_the_near_ones():
    with pytest.raises(InvalidRequest, match="use one of turbo") as caught:
        colormap("viridus")
    assert caught.value.extensions["near"] == ["viridis"]
