"""Shapes read as feature maps: a table of shapes, each with its one right reading."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camserve.engine.layout_reader import LayoutReader, Refusal
from camserve.engine.layouts import Layout, refit, to_channels_first

IMAGE = (224, 224)

# shapes before it, the shape, its reading
READINGS = [
    ([], (1, 512, 7, 7), Layout("BCSS", (7, 7))),
    ([], (1, 7, 7, 768), Layout("BSSC", (7, 7))),
    ([], (1, 196, 768), Layout("BTC", (14, 14))),
    ([(1, 768, 14, 14)], (1, 197, 768), Layout("BTC", (14, 14), 1)),
    ([(1, 768, 14, 14)], (1, 201, 768), Layout("BTC", (14, 14), 5)),
    ([(1, 64, 56, 56)], (1, 784, 128), Layout("BTC", (28, 28))),
    # eight channels on 8 x 8: in the order of the last map that could be read in one way only
    ([(1, 16, 56, 56)], (1, 7, 7, 7), Layout("BCSS", (7, 7))),
    ([(1, 56, 56, 16)], (1, 7, 7, 7), Layout("BSSC", (7, 7))),
]


@pytest.mark.parametrize(("before", "shape", "expected"), READINGS, ids=str)
def test_readings(before: list[tuple[int, ...]], shape: tuple[int, ...], expected: Layout) -> None:
    reader = LayoutReader(IMAGE, batch=1)
    for earlier in before:
        assert isinstance(reader.read(earlier), Layout)
    assert reader.read(shape) == expected


REFUSALS = [
    ([], (12, 197, 64), "not the batch"),
    ([], (1, 2048), "neither space nor time"),
    ([], (1, 2048, 1, 1), "single position"),
    ([], (1, 2, 1, 1), "single position"),
    ([], (1, 1, 1, 2), "single position"),
    ([], (1, 768, 1), "single position"),
    ([], (1, 12, 197, 64), "out of proportion"),
    ([], (1, 197, 768), "no grid in proportion"),
    ([(1, 768, 14, 14), (1, 197, 768)], (1, 12, 197, 197), "attention"),
    # a head as wide as there are tokens is as square as the image
    ([(1, 768, 8, 8), (1, 65, 768)], (1, 12, 65, 64), "attention"),
    ([(1, 8, 4, 4), (1, 8, 3, 3)], (1, 20, 64), "ambiguous: 4 prefix tokens and a 4x4 grid or 11"),
]


@pytest.mark.parametrize(("before", "shape", "reason"), REFUSALS, ids=str)
def test_refusals(before: list[tuple[int, ...]], shape: tuple[int, ...], reason: str) -> None:
    reader = LayoutReader(IMAGE, batch=1)
    for earlier in before:
        reader.read(earlier)
    refusal = reader.read(shape)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("before", "shape", "expected"),
    [
        ([], (1, 64, 50), Layout("BCT", (50,))),
        ([], (1, 64, 100), Layout("BCT", (100,))),
        ([], (1, 100, 64), Layout("BTC", (100,))),
        ([(1, 64, 25)], (1, 26, 64), Layout("BTC", (25,), 1)),
        ([], (1, 30, 92), Layout("BCT", (92,))),  # unpadded: no whole stride, channels first
    ],
)
def test_sequences(before: list[tuple[int, ...]], shape: tuple[int, ...], expected: Layout) -> None:
    reader = LayoutReader((100,), batch=1)
    for earlier in before:
        reader.read(earlier)
    reading = reader.read(shape)
    if isinstance(reading, Refusal):
        assert reading.fallback == expected
    else:
        assert reading == expected


@given(
    size=st.tuples(st.integers(16, 600), st.integers(16, 600)),
    patch=st.integers(2, 16),
    prefix=st.integers(0, 8),
)
def test_a_patch_grid_is_always_recovered(size: tuple[int, int], patch: int, prefix: int) -> None:
    grid = (size[0] // patch, size[1] // patch)
    if max(grid) == 1:
        return
    reader = LayoutReader(size, batch=1)
    if not isinstance(reader.read((1, 999, *grid)), Layout):
        return  # so narrow that one cell is a large part of it
    assert reader.read((1, grid[0] * grid[1] + prefix, 96)) == Layout("BTC", grid, prefix)


def test_tokens_become_rows_of_a_grid() -> None:
    tokens = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    maps = to_channels_first(tokens, Layout("BTC", (2, 3), 2))
    assert maps.shape == (2, 3, 2, 3)
    assert maps[1, 2, 1, 0] == tokens[1, 2 + 3, 2]
    channels_last = torch.randn(2, 4, 5, 6, 3)
    assert torch.equal(
        to_channels_first(channels_last, Layout("BSSSC", (4, 5, 6)))[1, 2], channels_last[1, ..., 2]
    )


def test_refit_to_another_size() -> None:
    tokens = Layout("BTC", (14, 14), 1)
    assert refit(tokens, (2, 1 + 14 * 20, 8), (224, 224), (224, 320)) == Layout("BTC", (14, 20), 1)
    assert refit(tokens, (2, 1 + 211, 8), (224, 224), (224, 320)) is None
    assert refit(Layout("BCSS", (7, 7)), (1, 8, 9, 5), IMAGE, IMAGE) == Layout("BCSS", (9, 5))
