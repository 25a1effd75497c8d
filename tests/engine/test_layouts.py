"""Shapes read as feature maps: a table of shapes, each with its one right reading."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camserve.engine.layout_reader import LayoutReader, Refusal
from camserve.engine.layouts import Extent, Layout, refit, to_channels_first

IMAGE = Extent("SS", (224, 224))

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
    reader = LayoutReader(Extent("T", (100,)), batch=1)
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
    reader = LayoutReader(Extent("SS", size), batch=1)
    if not isinstance(reader.read((1, 999, *grid)), Layout):
        return  # so narrow that one cell is a large part of it
    assert reader.read((1, grid[0] * grid[1] + prefix, 96)) == Layout("BTC", grid, prefix)


def test_tokens_become_rows_of_a_grid() -> None:
    tokens = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    maps = to_channels_first(tokens, Layout("BTC", (2, 3), 2), IMAGE)
    assert maps.shape == (2, 3, 2, 3)
    assert maps[1, 2, 1, 0] == tokens[1, 2 + 3, 2]
    volume = Extent("SSS", (8, 10, 12))
    channels_last = torch.randn(2, 4, 5, 6, 3)
    layout = Layout("BSSSC", (4, 5, 6))
    assert torch.equal(
        to_channels_first(channels_last, layout, volume)[1, 2], channels_last[1, ..., 2]
    )


# letters, shape, grid, and where the element [n=1, k=2, *position] of the result lies
AXES = [
    ("TBC", (6, 2, 3), (6,), (4,), (4, 1, 2)),
    ("CBT", (3, 2, 6), (6,), (4,), (2, 1, 4)),
    ("SSCB", (4, 5, 3, 2), (4, 5), (2, 3), (2, 3, 2, 1)),
    ("BSSC", (2, 4, 5, 3), (4, 5), (2, 3), (1, 2, 3, 2)),
    ("BTCSS", (2, 6, 3, 4, 5), (6, 4, 5), (5, 2, 3), (1, 5, 2, 2, 3)),
    ("BSSTC", (2, 4, 5, 6, 3), (6, 4, 5), (5, 2, 3), (1, 2, 3, 5, 2)),
]


@pytest.mark.parametrize("case", AXES, ids=lambda case: case[0])
@pytest.mark.parametrize("lead", [0, 1])
def test_any_order_of_dimensions(case: Any, lead: int) -> None:
    letters, shape, grid, position, place = case
    extents = {1: Extent("T", (60,)), 2: Extent("SS", (40, 50)), 3: Extent("TSS", (60, 40, 50))}
    tensor = torch.randn((7,) * lead + shape)
    maps = to_channels_first(tensor, Layout(letters, grid), extents[len(grid)], lead)
    assert maps.shape == (7,) * lead + (2, 3, *grid)
    index = (5,) * lead
    assert maps[(*index, 1, 2, *position)] == tensor[(*index, *place)]


def test_frames_of_a_video_that_are_folded_into_the_batch() -> None:
    extent = Extent("TSS", (4, 32, 48))
    tensor = torch.randn(2 * 4, 3, 8, 12)
    layout = LayoutReader(extent, batch=1).read((4, 3, 8, 12))
    assert layout == Layout("BCSS", (4, 8, 12), frames=4)
    assert layout.label == "(BT)CSS"
    maps = to_channels_first(tensor, layout, extent)
    assert maps.shape == (2, 3, 4, 8, 12)
    assert torch.equal(maps[1, 2, 3], tensor[4 + 3, 2])


def test_tokens_of_a_video_run_in_either_order() -> None:
    extent = Extent("TSS", (4, 32, 48))
    tokens = torch.randn(2, 1 + 2 * 4 * 6, 3)
    first = to_channels_first(tokens, Layout("BTC", (2, 4, 6), 1), extent)
    last = to_channels_first(tokens, Layout("BTC", (2, 4, 6), 1, time_last=True), extent)
    assert first.shape == last.shape == (2, 3, 2, 4, 6)
    assert first[1, 2, 1, 3, 5] == tokens[1, 1 + (1 * 4 + 3) * 6 + 5, 2]
    assert last[1, 2, 1, 3, 5] == tokens[1, 1 + (3 * 6 + 5) * 2 + 1, 2]


def test_channels_of_several_dimensions_are_counted_through() -> None:
    heads = torch.randn(2, 4, 9, 5)  # B, heads, tokens, width
    maps = to_channels_first(heads, Layout("BUTC", (3, 3)), IMAGE)
    assert maps.shape == (2, 20, 3, 3)
    assert maps[1, 2 * 5 + 3, 1, 2] == heads[1, 2, 5, 3]


def test_refit_to_another_size() -> None:
    tokens = Layout("BTC", (14, 14), 1)
    wide = Extent("SS", (224, 320))
    assert refit(tokens, (2, 1 + 14 * 20, 8), 2, IMAGE, wide) == Layout("BTC", (14, 20), 1)
    assert refit(tokens, (2, 1 + 211, 8), 2, IMAGE, wide) is None
    assert refit(tokens, (2, 1 + 14 * 20, 8), 1, IMAGE, wide) is None  # of two inputs, not of one
    assert refit(Layout("BCSS", (7, 7)), (1, 8, 9, 5), 1, IMAGE, IMAGE) == Layout("BCSS", (9, 5))
    assert refit(Layout("BCSS", (7, 7)), (1, 8, 9), 1, IMAGE, IMAGE) is None
    short, long = Extent("TSS", (4, 32, 48)), Extent("TSS", (6, 32, 48))
    folded = Layout("BCSS", (4, 8, 12), frames=4)
    assert refit(folded, (12, 3, 8, 12), 2, short, long) == Layout("BCSS", (6, 8, 12), frames=6)
    assert refit(folded, (13, 3, 8, 12), 2, short, long) is None


VIDEO = Extent("TSS", (8, 64, 96))
VIDEOS = [
    ([], (1, 16, 8, 32, 48), Layout("BCTSS", (8, 32, 48))),
    ([], (1, 16, 4, 8, 12), Layout("BCTSS", (4, 8, 12))),  # time and space have their own strides
    ([], (1, 8, 16, 32, 48), Layout("BTCSS", (8, 32, 48))),
    ([], (1, 4, 8, 12, 16), Layout("BTSSC", (4, 8, 12))),
    ([], (1, 16, 1, 8, 12), Layout("BCTSS", (1, 8, 12))),  # the time is pooled
    ([(8, 32, 8, 12)], (1, 1 + 8 * 8 * 12, 32), Layout("BTC", (8, 8, 12), 1)),
    ([], (8, 32, 8, 12), Layout("BCSS", (8, 8, 12), frames=8)),
    ([(8, 32, 8, 12)], (8, 1 + 8 * 12, 32), Layout("BTC", (8, 8, 12), 1, frames=8)),
]


@pytest.mark.parametrize(("before", "shape", "expected"), VIDEOS, ids=str)
def test_videos(before: list[tuple[int, ...]], shape: tuple[int, ...], expected: Layout) -> None:
    reader = LayoutReader(VIDEO, batch=1)
    for earlier in before:
        assert isinstance(reader.read(earlier), Layout)
    assert reader.read(shape) == expected


def test_time_before_the_batch() -> None:
    reader = LayoutReader(Extent("T", (100,)), batch=1)
    assert reader.read((50, 1, 64)) == Layout("TBC", (50,))
    assert isinstance(reader.read((37, 1, 64)), Refusal)
