"""Feature layers whose dimensions somebody labels: `BSSC`, `CTB`, `BTC:14x14`."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from camserve.dimensions import FEATURE_FORMAT, check_format
from camserve.engine.layout_reader import LayoutReader, cross
from camserve.engine.layouts import Layout
from camserve.errors import InvalidRequest

__all__ = ["layout_of"]

FIELD = "feature_format"


def layout_of(labels: str, shape: tuple[int, ...], reader: LayoutReader, layer: str) -> Layout:
    """The layout that `labels` give to the output of `layer`, of `shape` for one input.

    A B may be left out where it comes first. reader: knows the input's extent, and the grids that
    the model has shown. Raises InvalidRequest, with what would fit.
    """
    letters, asked_grid = _letters_and_grid(labels, shape, layer)
    places = [letter for letter in letters if letter in "ST"]
    extent = reader.extent
    if not places:
        raise _misfit(labels, "a feature layer needs a dimension S or T, else there is no map")
    layout = Layout(letters, tuple(extent.size))
    if layout.is_tokens and (asked_grid or len(extent.size) > 1):
        return _tokens(layout, shape[letters.index("T")], asked_grid, reader, labels)
    if asked_grid:
        raise _misfit(labels, "a grid goes with tokens, all in one dimension T")
    if sorted(places) != sorted(extent.letters) and len(extent.size) != len(places):
        raise _misfit(labels, f"the input has the dimensions {extent.letters}: name as many")
    if extent.is_video and sorted(places) != sorted(extent.letters):
        raise _misfit(labels, f"the input has the dimensions {extent.letters}: name the same")
    grid = list(extent.size)
    sizes = [size for size, letter in zip(shape, letters, strict=True) if letter in "ST"]
    for axis, size in zip(layout.axes(extent), sizes, strict=True):
        grid[axis] = size
    return replace(layout, grid=tuple(grid))


def _letters_and_grid(labels: str, shape: tuple[int, ...], layer: str) -> tuple[str, str]:
    """One letter for each dimension of the layer's output, B among them; and the grid, if any."""
    letters, _, asked_grid = labels.partition(":")
    check_format(letters, FIELD)
    if not re.fullmatch(FEATURE_FORMAT, labels):
        raise _misfit(labels, "a grid of tokens is written as in BTC:14x14")
    if "B" not in letters and len(letters) == len(shape) - 1:
        letters = f"B{letters}"
    returns = f"layer {layer!r} returns {cross(shape)} for one input"
    if len(letters) != len(shape) or "B" not in letters:
        raise _misfit(labels, f"{returns}, which has {len(shape)} dimensions, B among them")
    if shape[letters.index("B")] != 1:
        raise _misfit(labels, f"{returns}: the dimension of size 1 is B")
    return letters, asked_grid


def _tokens(
    layout: Layout, tokens: int, asked_grid: str, reader: LayoutReader, labels: str
) -> Layout:
    """Tokens that are a grid behind some prefix tokens: the grid that is named, or the only one."""
    if asked_grid:
        grid = tuple(int(size) for size in asked_grid.split("x"))
        if len(grid) != len(reader.extent.size) or math.prod(grid) > tokens:
            raise _misfit(
                labels,
                f"{tokens} tokens are no grid of {len(reader.extent.size)} dimensions that is "
                f"{asked_grid}",
            )
        return replace(layout, grid=grid, prefix_tokens=tokens - math.prod(grid))
    choices = reader.token_choices(tokens)
    if len(choices) != 1:
        named = " or ".join(f"{layout.letters}:{cross(choice.grid)}" for choice in choices)
        raise _misfit(
            labels, f"say which grid the {tokens} tokens are, as in {named or 'BTC:14x14'}"
        )
    return replace(layout, grid=choices[0].grid, prefix_tokens=choices[0].prefix_tokens)


def _misfit(labels: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"feature_format {labels!r} does not fit: {reason}", field=FIELD)
