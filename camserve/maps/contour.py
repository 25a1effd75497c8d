"""Contour lines of a map: the photograph stays whole, lines say where the evidence lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camserve.maps.colormaps import colormap

__all__ = ["LEVELS", "Panel", "seen_box", "with_contours"]

Panel = tuple[slice, slice]
"""Rows and columns."""

LEVELS: Final = (0.25, 0.5, 0.75)

# Where a map rises by less than this per pixel, it is a plateau and has no line.
_LEAST_SLOPE: Final = 1e-6


def with_contours(
    picture: Image.Image,
    unit: NDArray[np.floating[Any]],
    *,
    boxes: Sequence[Panel],
    name: str,
    lowest: float,
) -> Image.Image:
    """`picture` (RGB) with smooth lines where `unit` (h, w) passes `lowest` and the `LEVELS` above.

    A line has the colour of its level in the colour map `name`, on a dark rim so that it shows on
    bright and on dark ground. Each of the boxes is looked at by itself: the step at its edge is no
    slope of the map. There are no lines outside, and none in a box a single pixel high or wide.
    """
    result = picture.copy()
    # the lines of many small boxes are thinner than that of a large one
    narrow = min((min(_sides(box)) for box in boxes), default=0)
    width = max(1.5, narrow / 160.0)
    for box in boxes:
        values = unit[box].astype(np.float32, copy=False)
        if min(values.shape) >= 2:
            _draw(
                result,
                values,
                corner=(box[1].start, box[0].start),
                width=width,
                name=name,
                levels=_levels(lowest),
            )
    return result


def _draw(
    picture: Image.Image,
    values: NDArray[np.float32],
    *,
    corner: tuple[int, int],
    width: float,
    name: str,
    levels: Sequence[float],
) -> None:
    slope = np.hypot(*np.gradient(values))
    np.maximum(slope, np.float32(_LEAST_SLOPE), out=slope)
    for level in levels:
        # To first order, how many pixels away the map has this level.
        distance = np.abs(values - np.float32(level)) / slope
        red, green, blue = (int(c) for c in colormap(name)[round(255 * level)])
        for ink, reach, opacity in (
            ((0, 0, 0), width + 2.0, 0.5),
            ((red, green, blue), width, 1.0),
        ):
            cover = np.clip(np.float32(reach / 2.0 + 0.5) - distance, 0.0, 1.0)
            stencil = Image.fromarray((cover * np.float32(255.0 * opacity)).astype(np.uint8))
            picture.paste(
                ink, (*corner, corner[0] + stencil.width, corner[1] + stencil.height), stencil
            )


def _sides(box: Panel) -> tuple[int, int]:
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def _levels(lowest: float) -> list[float]:
    """`LEVELS` from `lowest` up, and `lowest` itself unless it is 0: where the evidence begins."""
    return sorted({level for level in (lowest, *LEVELS) if level >= lowest and level > 0.0})


def seen_box(shape: tuple[int, ...], mask: NDArray[np.bool_] | None) -> Panel:
    """The smallest box that holds what the model saw; empty if it saw nothing."""
    if mask is None:
        return slice(0, shape[0]), slice(0, shape[1])
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return (
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )
