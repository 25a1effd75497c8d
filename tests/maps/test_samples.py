"""Long axes: sampled without a matrix, to the same numbers, in little room."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from camserve.maps import samples
from camserve.maps.resample import axis_samples, resample
from camserve.maps.sampler import Picked, Sampler

SHAPES = [(50, 170), (170, 50), (400, 3), (3, 400), (90, 90), (1, 20), (20, 1)]


@pytest.mark.parametrize("method", ["nearest", "linear", "bicubic"])
@pytest.mark.parametrize(("cells", "count"), SHAPES)
@pytest.mark.parametrize("block", [1, 64, 1 << 20])
def test_single_cells_give_what_the_matrix_gives(cells, count, method, block, monkeypatch):
    """Tap by tap, and sample by sample where many cells make one."""
    random = np.random.default_rng(0)
    array = random.normal(size=(2, cells, 3))
    for start, extent in ((0.0, None), (-1.5, cells + 4.0), (cells / 4, cells / 3)):
        how = axis_samples(cells, count, method, start=start, extent=extent)
        expected = np.einsum("sc,acb->asb", how.matrix(), array)
        monkeypatch.setattr(samples, "_LARGEST_MATRIX", 0)
        monkeypatch.setattr(samples, "_BLOCK", block)
        np.testing.assert_allclose(how.of(array, 1), expected, atol=1e-12)
        monkeypatch.undo()
        np.testing.assert_allclose(how.of(array, 1), expected, atol=1e-12)


def test_both_ways_are_taken(monkeypatch):
    taken = []
    for name in ("_tap_by_tap", "_one_by_one"):
        real = getattr(samples.Samples, name)
        monkeypatch.setattr(
            samples.Samples,
            name,
            lambda *args, real=real, name=name: taken.append(name) or real(*args),
        )
    array = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    found = resample(array, (3,), "bicubic")
    np.testing.assert_allclose(found, array.reshape(3, -1).mean(1), atol=2e-3)
    resample(array[:100_000], (200_000,), "linear")
    assert list(dict.fromkeys(taken)) == ["_one_by_one", "_tap_by_tap"]


@pytest.mark.parametrize(("cells", "count"), [(300_000, 400_000), (400_000, 1000), (50, 500_000)])
@pytest.mark.parametrize("method", ["nearest", "linear", "bicubic"])
def test_a_sequence_of_any_length_takes_little_room(cells, count, method):
    """A matrix would take up to a terabyte."""
    line = np.linspace(0, 1, cells, dtype=np.float32)
    tracemalloc.start()
    try:
        found = resample(line, (count,), method)
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()
    inner = slice(count // 10, -count // 10)
    truth = ((np.arange(count) + 0.5) / count * cells - 0.5) / (cells - 1)
    error = 1 / cells if method == "nearest" else 1e-5
    assert np.abs(found[inner] - truth[inner]).max() <= error


def test_one_cell_that_is_not_a_number_does_not_spoil_its_line():
    cells = np.array([[1.0, np.nan, 3.0, 4.0]])
    found = resample(cells, (8,), "nearest")
    assert np.isnan(found[0]).tolist() == [False, False, True, True] + [False] * 4


def test_picked_samples_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(size=(6, 5, 4))
    for method in ("nearest", "linear", "bicubic"):
        whole = Sampler.whole((30, 7, 9), method)
        picked = Sampler((Picked.among(30, (0, 4, 29)), *whole.spans[1:]), method)
        np.testing.assert_allclose(picked(values), whole(values)[[0, 4, 29]], atol=1e-12)
        assert picked.size == (3, 7, 9)
        assert picked.mask.all()
