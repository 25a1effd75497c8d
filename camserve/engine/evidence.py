"""Which dimension is which, shown by a change: a corner of the input changes a corner of its map.

A shape does not always tell. 64 steps of 32 channels are as good a sequence as 32 steps of 64; 8
channels on 8x8 look the same from both ends; and the tokens of a video may run place by place or
time by time. So a corner is changed, the last steps of the first places, and the reading is right
in which the tensor changes there and not everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from camserve.engine.layouts import Extent, Layout, to_channels_first

__all__ = ["best_shown", "corner", "with_changed_corner"]

SHARE = 8
"""The corner is an eighth of each side."""

CLEARLY = 1.5
"""So much more than in the second best reading must the corner stand out."""


def corner(letters: str, size: Sequence[int]) -> tuple[slice, ...]:
    """The corner of a grid: the first cells of space, the last of time."""
    slices = []
    for letter, cells in zip(letters, size, strict=True):
        part = math.ceil(cells / SHARE)
        slices.append(slice(cells - part, cells) if letter == "T" else slice(0, part))
    return tuple(slices)


def with_changed_corner(inputs: Tensor, labels: str) -> Tensor:
    """A copy of inputs, of these labels, with the signs in the corner turned."""
    changed = inputs.clone()
    places = "".join(letter if letter in "ST" else " " for letter in labels)
    sizes = [cells for letter, cells in zip(labels, inputs.shape, strict=True) if letter in "ST"]
    slices = iter(corner(places.replace(" ", ""), sizes))
    region = tuple(slice(None) if letter == " " else next(slices) for letter in places)
    changed[region] *= -1
    return changed


def best_shown(layouts: Sequence[Layout], evidence: Tensor | None, extent: Extent) -> Layout | None:
    """The reading in which the change stands out in the corner; None if it does in none clearly.

    evidence: the absolute change of the tensor, of its shape, for one input.
    """
    if evidence is None:
        return None
    shown = sorted(((_contrast(evidence, one, extent), one) for one in layouts), key=_first)
    (second, _), (best, layout) = shown[-2:]
    return layout if best >= CLEARLY * second else None


def _first(pair: tuple[float, Layout]) -> float:
    return pair[0]


def _contrast(evidence: Tensor, layout: Layout, extent: Extent) -> float:
    """Mean change in the corner over the mean change; 0 where nothing changed at all."""
    change = to_channels_first(evidence, layout, extent)[0].sum(0)
    total = float(change.mean())
    inside = float(change[corner(extent.letters, layout.grid)].mean())
    return inside / total if total > 0 else 0.0
