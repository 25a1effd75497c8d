"""How much of each cell of the model's input a region of the upload covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "box_shares", "mask_shares"]

_BLOCK: Final = 1 << 22  # positions of a mask that are looked at in one go

Bounds = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells along one axis of the model's input, where they lie on the upload.

    axis: of the upload, whose positions run along these cells. edges: their ends, in positions of
    that axis, one more than there are cells; they fall where the upload was turned round, and lie
    beyond it where it was padded.
    """

    axis: int
    edges: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def lengths(self) -> NDArray[np.float64]:
        return np.abs(np.diff(self.edges))

    def overlap(self, start: float, end: float) -> NDArray[np.float64]:
        """Which share of each cell lies in a span of the upload's axis."""
        inside = np.clip(self.edges, start, end)
        return np.abs(np.diff(inside)) / self.lengths


def box_shares(axes: Sequence[Cells], bounds: Sequence[Bounds]) -> NDArray[np.float64]:
    """The share of each cell (*S) that lies in a box: a product over the axes.

    bounds: start and end on each axis of the upload.
    """
    shares = np.ones(())
    for cells in axes:
        shares = shares[..., None] * cells.overlap(*bounds[cells.axis])
    return shares


def mask_shares(axes: Sequence[Cells], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of each cell (*S) that lies in the positions that are true.

    mask: on the upload's own grid. What lies beyond the upload is not in it.
    """
    along = {cells.axis: cells for cells in axes}
    shares: NDArray[Any] = mask
    # from the last axis, whose sums need no copies of a large mask
    for axis in reversed(range(mask.ndim)):
        shares = _sums(shares, axis, along[axis].edges)
        lengths = along[axis].lengths
        shares /= lengths.reshape([-1 if one == axis else 1 for one in range(mask.ndim)])
    return shares.transpose([cells.axis for cells in axes])


def _sums(values: NDArray[Any], axis: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral of `values`, which are constant at each position, between the edges."""
    lines = np.moveaxis(values, axis, -1)
    lead = lines.shape[:-1]
    flat = lines.reshape(-1, values.shape[axis])
    found = np.empty((len(flat), len(edges) - 1))
    step = max(1, _BLOCK // flat.shape[1])
    for start in range(0, len(flat), step):
        block = flat[start : start + step]
        found[start : start + step] = np.abs(np.diff(_integral(block, edges), axis=1))
    return np.moveaxis(found.reshape(*lead, -1), -1, axis)


def _integral(lines: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the start of each line to each edge, (lines, edges)."""
    length = lines.shape[1]
    inside = np.clip(edges, 0.0, length)
    whole = np.minimum(inside.astype(np.intp), length - 1)
    until = np.zeros((len(lines), length + 1))
    np.cumsum(lines, axis=1, dtype=np.float64, out=until[:, 1:])
    integral: NDArray[np.float64] = until[:, whole] + (inside - whole) * lines[:, whole]
    return integral
