"""Resampling against Pillow, torch and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from camserve.errors import InvalidRequest
from camserve.maps.resample import METHODS, axis_samples, resample

SIZES = [((7, 7), (224, 224)), ((7, 5), (31, 40)), ((40, 33), (9, 12)), ((8, 30), (24, 7))]
MATRIX_METHODS = [method for method in METHODS if method != "none"]


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def pillow(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), how))


def weights(in_size: int, out_size: int, method: str, **part: float) -> np.ndarray:
    """How much each cell counts in each sample: (out_size, in_size)."""
    return axis_samples(in_size, out_size, method, **part).matrix()


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_bicubic_is_pillows_and_imresizes_up_and_down(small, size):
    array = picture(*small)
    assert error(resample(array, size, "bicubic"), pillow(array, size, Image.BICUBIC)) < 1e-6


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_nearest_is_torchs_nearest_exact(small, size):
    array = picture(*small)
    theirs = interpolate(torch.tensor(array)[None, None], size, mode="nearest-exact")[0, 0]
    assert np.array_equal(resample(array, size, "nearest"), theirs.numpy())


@pytest.mark.parametrize(
    ("mode", "small", "size"),
    [
        ("linear", (13,), (100,)),
        ("linear", (100,), (13,)),
        ("bilinear", (7, 5), (31, 40)),
        ("bilinear", (30, 8), (7, 24)),
        ("trilinear", (4, 5, 6), (32, 7, 3)),
    ],
)
def test_linear_is_torchs_in_one_two_and_three_dimensions(mode, small, size):
    array = picture(2, 3, *small).astype(np.float64)
    theirs = interpolate(torch.tensor(array), size, mode=mode, align_corners=False).numpy()
    ours = resample(array, size, "linear")
    assert ours.dtype == np.float64
    assert error(ours, theirs) < 1e-12


def test_bicubic_follows_a_parabola_between_the_edges():
    # Keys with a = -0.5 reproduces quadratics exactly; with torch's a = -0.75 it does not.
    cells = np.arange(12) + 0.5
    centres = (np.arange(60) + 0.5) * 12 / 60
    inside = (centres > 2) & (centres < 10)
    ours = weights(12, 60, "bicubic") @ (cells**2)
    assert np.allclose(ours[inside], centres[inside] ** 2, atol=1e-12)


def test_a_part_of_the_axis_is_sampled_as_pillows_box():
    array = picture(9, 9)
    rows = weights(9, 50, "bicubic", start=1.25, extent=5.5)
    columns = weights(9, 40, "bicubic", start=3.0, extent=2.75)
    theirs = Image.fromarray(array).resize((40, 50), Image.BICUBIC, box=(3.0, 1.25, 5.75, 6.75))
    # Pillow cuts the kernel at the box only outside the picture, so the neighbours count.
    assert error(rows @ array @ columns.T, np.asarray(theirs)) < 1e-6


@pytest.mark.parametrize("method", MATRIX_METHODS)
def test_samples_beyond_the_axis_take_its_end(method):
    matrix = weights(4, 9, method, start=-50.0, extent=100.0)
    assert np.allclose(matrix.sum(axis=1), 1.0)
    values = matrix @ np.array([1.0, 2.0, 3.0, 4.0])
    if method != "bicubic":
        assert values[0] == 1.0
        assert values[-1] == 4.0


@settings(max_examples=60)
@given(
    in_size=st.integers(1, 40),
    out_size=st.integers(1, 60),
    method=st.sampled_from(MATRIX_METHODS),
    start=st.floats(-60, 60),
    extent=st.floats(0.01, 200),
)
def test_rows_always_sum_to_one_so_that_constants_stay(in_size, out_size, method, start, extent):
    matrix = weights(in_size, out_size, method, start=start, extent=extent)
    assert matrix.shape == (out_size, in_size)
    assert np.allclose(matrix.sum(axis=1), 1.0, atol=1e-9)


@settings(max_examples=40)
@given(size=st.integers(1, 30), method=st.sampled_from(MATRIX_METHODS))
def test_the_same_size_is_the_identity(size, method):
    assert np.allclose(weights(size, size, method), np.eye(size), atol=1e-12)


@settings(max_examples=40)
@given(
    in_size=st.integers(1, 20),
    out_size=st.integers(1, 50),
    method=st.sampled_from(["linear", "bicubic"]),
)
def test_both_ends_are_treated_alike(in_size, out_size, method):
    matrix = weights(in_size, out_size, method)
    assert np.allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_none_keeps_the_array_and_refuses_another_size():
    array = picture(3, 4)
    assert resample(array, None, "none") is array
    assert resample(array, (3, 4), "none") is array
    with pytest.raises(InvalidRequest, match="leave size"):
        resample(array, (6, 8), "none")


def test_integers_become_float32():
    assert resample(np.eye(3, dtype=np.int64), (6, 6), "linear").dtype == np.float32


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: weights(0, 5, "linear"),
        lambda: weights(5, 0, "linear"),
        lambda: weights(5, 5, "linear", extent=-1.0),
        lambda: weights(5, 5, "none"),
        lambda: weights(5, 5, "lanczos"),
        lambda: resample(picture(3, 3), (2, 2, 2), "linear"),
        lambda: resample(picture(3, 3), None, "linear"),
    ],
)
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(InvalidRequest):
        wrong()
