"""Samples along one axis: how each is made of the cells around it.

Short axes go through one dense matrix, which is what processors are fast at. A sequence of a
million steps would take a matrix of terabytes: long axes are sampled block by block, from the few
cells that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["KERNELS", "FloatArray", "Samples"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

# Beyond these a matrix costs more than the gathering of single cells, in time and in room.
_LARGEST_MATRIX: Final = 1 << 22
_LONGEST_ROW: Final = 1 << 16
_BLOCK: Final = 1 << 20


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys (1981), eq. 15 with a = -0.5: third-order accurate, support [-2, 2]."""
    a, t = -0.5, np.abs(x)
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = a * (((t - 5.0) * t + 8.0) * t - 4.0)
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))


_Kernel: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
KERNELS: Final[dict[str, tuple[_Kernel, float, bool]]] = {
    "linear": (_linear, 1.0, False),
    "bicubic": (_keys, 2.0, True),
}
"""The kernel, how far it reaches in cells, and whether it is widened when shrinking."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples at `centres`, in cells, of an axis that has `cells` of them.

    method: `nearest`, or one of `KERNELS`. widen: the kernel's stretch, at least 1.
    """

    cells: int
    centres: NDArray[np.float64]
    method: Literal["nearest", "linear", "bicubic"]
    widen: float = 1.0

    def at(self, chosen: slice | list[int]) -> Samples:
        """Some of them."""
        return Samples(self.cells, self.centres[chosen], self.method, self.widen)

    def matrix(self) -> NDArray[np.float64]:
        """The weights (samples, cells); rows sum to 1."""
        if self.method == "nearest":
            return np.asarray(self._nearest()[:, None] == np.arange(self.cells), dtype=np.float64)
        cells, weights = self._taps(self.centres)
        matrix = np.zeros((len(self.centres), self.cells))
        # Taps off the axis weigh 0; added, not assigned, so that they leave the edge cell alone.
        rows = np.broadcast_to(np.arange(len(self.centres))[:, None], cells.shape)
        np.add.at(matrix, (rows, cells), weights)
        return matrix

    def of(self, array: FloatArray, axis: int) -> FloatArray:
        """`array` sampled along one of its axes, in its own dtype."""
        if self.method == "nearest":
            return np.take(array, self._nearest(), axis=axis)
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        flat = array.reshape(-1, self.cells, math.prod(after))
        samples = len(self.centres)
        if self.cells <= _LONGEST_ROW and samples * self.cells <= _LARGEST_MATRIX:
            factor = self.matrix().astype(array.dtype, copy=False)
            # Without trailing axes one product of two matrices does, where a stack would crawl.
            moved = np.matmul(factor, flat) if after else (flat[:, :, 0] @ factor.T)[..., None]
        else:
            moved = np.empty((len(flat), samples, flat.shape[2]), dtype=array.dtype)
            length = max(1, _BLOCK // max(self._reach, len(flat) * flat.shape[2]))
            gather = self._tap_by_tap if self._reach <= length else self._one_by_one
            for start in range(0, samples, length):
                block = slice(start, start + length)
                moved[:, block] = gather(flat, self.centres[block])
        result: FloatArray = moved.reshape(*before, samples, *after)
        return result

    @property
    def _reach(self) -> int:
        """How many cells may count for a sample."""
        return math.ceil(2.0 * KERNELS[self.method][1] * self.widen) + 1

    def _nearest(self) -> NDArray[np.intp]:
        return np.clip(np.floor(self.centres), 0, self.cells - 1).astype(np.intp)

    def _taps(self, centres: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The cells around each centre and their weights, truncated at the axis, summing to 1."""
        kernel, reach, _ = KERNELS[self.method]
        around = np.clip(centres, 0.0, self.cells)
        first = np.floor(around - reach * self.widen).astype(np.intp)
        cells = first[:, None] + np.arange(self._reach)
        weights = kernel((cells + 0.5 - around[:, None]) / self.widen)
        weights[(cells < 0) | (cells >= self.cells)] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        return np.clip(cells, 0, self.cells - 1), weights

    def _tap_by_tap(self, flat: FloatArray, centres: NDArray[np.float64]) -> FloatArray:
        """Samples (lines, centres, after) of `flat` (lines, cells, after), of few cells each."""
        cells, weights = self._taps(centres)
        found = np.zeros((len(flat), len(centres), flat.shape[2]), dtype=flat.dtype)
        for tap in range(self._reach):
            factor = weights[:, tap].astype(flat.dtype)
            found += factor[:, None] * flat[:, cells[:, tap]]
        return found

    def _one_by_one(self, flat: FloatArray, centres: NDArray[np.float64]) -> FloatArray:
        """The same where many cells make one sample."""
        kernel, reach, _ = KERNELS[self.method]
        found = np.zeros((len(flat), len(centres), flat.shape[2]), dtype=flat.dtype)
        for number, centre in enumerate(np.clip(centres, 0.0, self.cells).tolist()):
            first = max(0, math.floor(centre - reach * self.widen))
            end = min(self.cells, math.ceil(centre + reach * self.widen))
            total = 0.0
            for start in range(first, end, _BLOCK):
                cells = np.arange(start, min(start + _BLOCK, end))
                weights = kernel((cells + 0.5 - centre) / self.widen)
                total += float(weights.sum())
                part = flat[:, cells[0] : cells[-1] + 1]
                found[:, number] += np.einsum("c,lca->la", weights.astype(flat.dtype), part)
            found[:, number] /= total
        return found
