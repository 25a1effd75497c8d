"""Contour lines of a map: the photograph stays whole, lines say where the evidence lies."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camserve.maps.colormaps import colormap

__all__ = ["LEVELS", "with_contours"]

LEVELS: Final = (0.25, 0.5, 0.75)

# Where a map rises by less than this per pixel, it is a plateau and has no line.
_LEAST_SLOPE: Final = 1e-6


def with_contours(
    picture: Image.Image,
    unit: NDArray[np.floating[Any]],
    *,
    mask: NDArray[np.bool_] | None,
    name: str,
    lowest: float,
) -> Image.Image:
    """`picture` (RGB) with smooth lines where `unit` (h, w) passes `lowest` and the `LEVELS` above.

    A line has the colour of its level in the colour map `name`, on a dark rim so that it shows on
    bright and on dark ground. There are none outside the box that holds `mask`, and none in a box
    that is a single pixel high or wide.
    """
    box = _seen(unit.shape, mask)
    values = unit[box].astype(np.float32, copy=False)
    if min(values.shape) < 2:
        return picture
    # Of the box alone: the step from the map to the unseen around it is no slope of the map.
    slope = np.hypot(*np.gradient(values))
    np.maximum(slope, np.float32(_LEAST_SLOPE), out=slope)
    width = max(1.5, min(unit.shape) / 160.0)
    corner = (box[1].start, box[0].start)
    result = picture.copy()
    for level in _levels(lowest):
        # To first order, how many pixels away the map has this level.
        distance = np.abs(values - np.float32(level)) / slope
        red, green, blue = (int(c) for c in colormap(name)[round(255 * level)])
        for ink, reach, opacity in (
            ((0, 0, 0), width + 2.0, 0.5),
            ((red, green, blue), width, 1.0),
        ):
            cover = np.clip(np.float32(reach / 2.0 + 0.5) - distance, 0.0, 1.0)
            stencil = Image.fromarray((cover * np.float32(255.0 * opacity)).astype(np.uint8))
            result.paste(
                ink, (*corner, corner[0] + stencil.width, corner[1] + stencil.height), stencil
            )
    return result


def _levels(lowest: float) -> list[float]:
    """`LEVELS` from `lowest` up, and `lowest` itself unless it is 0: where the evidence begins."""
    return sorted({level for level in (lowest, *LEVELS) if level >= lowest and level > 0.0})


def _seen(shape: tuple[int, ...], mask: NDArray[np.bool_] | None) -> tuple[slice, slice]:
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
