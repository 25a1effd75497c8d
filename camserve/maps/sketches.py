"""What is kept of an array to draw it by: a small picture with a pixel a cell.

Overlays are drawn long after the array is gone, and in any size. A finished drawing would be
blurred when it is enlarged; a sketch is drawn anew each time.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camserve.maps.cuts import cuts_of
from camserve.maps.grids import Grid
from camserve.maps.resample import FloatArray

__all__ = ["MOST_CURVES", "Sketch", "portions", "raster_axes", "sketch_of"]

MOST_CURVES: Final = 16
_LONGEST: Final = 2048  # columns of curves
_LARGEST: Final = 1024  # a side of a raster
_LARGEST_SLICE: Final = 256
_MOST_CHANNELS: Final = 256
_SAMPLE: Final = 1_000_000

Sketch: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]


def sketch_of(array: FloatArray, grid: Grid) -> Sketch:
    """The sketch of an array (C, *S), all finite, S in the model's order.

    - One axis: (2 C, steps) uint16, the least and the greatest value in each column of a curve, on
      a scale of its own. More than `MOST_CURVES` channels: (C, steps) uint8, gray levels.
    - Two axes: (rows, columns) uint8, as `raster_axes` says, the mean of the channels.
    - More: such slices one below the other.

    Three channels over two dimensions of space are (…, 3), taken for red, green and blue.
    """
    if len(grid.size) == 1:
        return _curves(array) if len(array) <= MOST_CURVES else _carpet(array)
    colours = len(array) == 3 and grid.letters.count("S") == 2
    if len(grid.size) == 2:
        flat = np.moveaxis(array, 0, -1) if colours else _mean(array)
        down, right = raster_axes(grid)
        turned = flat.transpose(down, right, 2) if colours else flat.transpose(down, right)
        return _levels(_shrunk(turned, (0, 1), _LARGEST))
    slices = cuts_of(grid).of(array)  # (n, C, h, w)
    planes = np.moveaxis(slices, 1, -1) if colours else slices.mean(1, dtype=np.float64)
    small = _shrunk(planes, (1, 2), _LARGEST_SLICE)
    return _levels(small.reshape(-1, *small.shape[2:]))


def raster_axes(grid: Grid) -> tuple[int, int]:
    """The axes of a grid of two that run down and to the right: as sent, but time to the right."""
    down, right = grid.order
    return (right, down) if grid.letters[down] == "T" else (down, right)


def _mean(array: FloatArray) -> FloatArray:
    return array[0] if len(array) == 1 else np.asarray(array.mean(0, dtype=np.float64))


def _curves(array: FloatArray) -> NDArray[np.uint16]:
    steps = array.shape[1]
    starts = portions(steps, min(steps, _LONGEST))
    low = np.minimum.reduceat(array, starts, axis=1).astype(np.float64)
    high = np.maximum.reduceat(array, starts, axis=1).astype(np.float64)
    least, most = low.min(1)[:, None], high.max(1)[:, None]
    span = most - least
    flat = span[:, 0] == 0
    curves = np.stack([low, high], axis=1)  # (C, 2, columns)
    unit = (curves - least[:, None]) / np.where(span == 0, 1.0, span)[:, None]
    unit[flat] = 0.5
    return np.asarray(np.rint(unit * 65535), np.uint16).reshape(-1, len(starts))


def _carpet(array: FloatArray) -> NDArray[np.uint8]:
    """Each channel on a scale of its own: the differences between them would be all one sees."""
    small = _shrunk(_shrunk(array, (1,), _LONGEST), (0,), _MOST_CHANNELS)
    return np.stack([_levels(channel) for channel in small])


def portions(total: int, count: int) -> NDArray[np.intp]:
    """Where each of `count` neighbouring portions of `total` cells begins."""
    return np.arange(count, dtype=np.intp) * total // count


def _shrunk(array: FloatArray, axes: tuple[int, ...], most: int) -> FloatArray:
    """Means over neighbours along the axes that are longer than `most`."""
    for axis in axes:
        total = array.shape[axis]
        if total > most:
            starts = portions(total, most)
            shares = np.diff(starts, append=total).astype(np.float64)
            sums = np.add.reduceat(array, starts, axis=axis, dtype=np.float64)
            array = sums / shares.reshape([-1 if one == axis else 1 for one in range(array.ndim)])
    return array


def _levels(values: FloatArray) -> NDArray[np.uint8]:
    """Gray levels, from black for the least to white; a few outliers have no say in the scale."""
    some = values.reshape(-1)[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    low, high = (float(limit) for limit in np.percentile(some, (0.5, 99.5)))
    if not low < high:
        low, high = float(values.min()), float(values.max())
    if not low < high:
        return np.full(values.shape, 128, dtype=np.uint8)
    unit = (np.clip(values, low, high).astype(np.float64) - low) / (high - low)
    return np.rint(unit * 255).astype(np.uint8)
