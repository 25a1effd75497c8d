"""Which slices of a volume, or frames of a video, are shown."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camserve.maps.grids import Grid

__all__ = ["MOST_SLICES", "Cuts", "cuts_of"]

MOST_SLICES: Final = 16


@dataclass(frozen=True)
class Cuts:
    """Slices across the axes `axes` of a grid, in the model's order, at the indices `chosen`.

    One axis is cut of three. Of four two are: a slice for each pair of indices, row by row.
    """

    grid: Grid
    axes: tuple[int, ...]
    chosen: tuple[tuple[int, ...], ...]

    @property
    def plane(self) -> tuple[int, int]:
        """The two axes of a slice: down and to the right. S keep their order everywhere."""
        down, right = (axis for axis in range(len(self.grid.size)) if axis not in self.axes)
        return down, right

    @property
    def plane_size(self) -> tuple[int, int]:
        down, right = self.plane
        return self.grid.size[down], self.grid.size[right]

    @property
    def count(self) -> int:
        return math.prod(len(indices) for indices in self.chosen)

    @property
    def captions(self) -> list[str]:
        """What each slice is, in the client's indices: `frame 3`, `slice 12`, `[:, :, 12]`."""
        words = [self._words(axis) for axis in self.axes]
        return [
            ", ".join(word.format(index) for word, index in zip(words, indices, strict=True))
            for indices in itertools.product(*self.chosen)
        ]

    def of(self, array: NDArray[np.floating]) -> NDArray[np.floating]:
        """The slices (count, ..., *plane) of `array` (..., *S) in the model's order."""
        lead = array.ndim - len(self.grid.size)
        for axis, indices in zip(self.axes, self.chosen, strict=True):
            array = np.take(array, indices, axis=lead + axis)
        return self.stacked(array)

    def stacked(self, picked: NDArray[np.floating]) -> NDArray[np.floating]:
        """(count, ..., *plane) of an array (..., *S) that has only the chosen indices."""
        lead = picked.ndim - len(self.grid.size)
        front = np.moveaxis(picked, [lead + axis for axis in self.axes], range(len(self.axes)))
        return front.reshape(self.count, *front.shape[len(self.axes) :])

    def fewer(self, count: int) -> Cuts:
        """At most so many of these slices. Of four axes all stay."""
        if len(self.axes) > 1 or count >= self.count:
            return self
        (kept,) = self.chosen
        chosen = tuple(kept[index] for index in _even(len(kept), count))
        return Cuts(self.grid, self.axes, (chosen,))

    def _words(self, axis: int) -> str:
        if self.grid.letters[axis] == "T":
            return "frame {}"
        if axis == 0 or len(self.axes) > 1:
            return "slice {}"
        # three dimensions of space are in the client's order as they are
        return "[" + ", ".join("{}" if one == axis else ":" for one in range(3)) + "]"


def cuts_of(grid: Grid) -> Cuts:
    """The slices that are shown of a grid of three axes or four."""
    across = [axis for axis, letter in enumerate(grid.letters) if letter == "T"]
    if len(across) < len(grid.size) - 2:
        across.append(_short_axis(grid))
    most = MOST_SLICES if len(across) == 1 else math.isqrt(MOST_SLICES)
    return Cuts(grid, tuple(across), tuple(tuple(_even(grid.size[axis], most)) for axis in across))


def _short_axis(grid: Grid) -> int:
    """The axis of space that is cut: the client's first, unless another is half as long."""
    spaces = [axis for axis in grid.order if grid.letters[axis] == "S"]
    least = min(grid.size[axis] for axis in spaces)
    return next(axis for axis in spaces if grid.size[axis] < 2 * least)


def _even(total: int, most: int) -> range:
    """At most so many of `total` indices, evenly spread, in the middle."""
    step = math.ceil(total / most)
    count = math.ceil(total / step)
    first = (total - 1 - (count - 1) * step) // 2
    return range(first, total, step)
