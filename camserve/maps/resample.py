"""Separable N-D resampling: one (out, in) matrix per axis.

Cells have half-pixel centres: cell k of an axis covers [k, k + 1), its value sits at k + 0.5, and
a whole axis of `in` cells covers [0, in). Samples are cell centres too (align_corners=False).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from camserve.errors import InvalidRequest

__all__ = ["METHODS", "FloatArray", "Method", "apply_along", "resample", "weights"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Method = Literal["nearest", "linear", "bicubic", "none"]

METHODS: Final[tuple[Method, ...]] = get_args(Method)


def weights(
    in_size: int,
    out_size: int,
    method: Method,
    *,
    start: float = 0.0,
    extent: float | None = None,
    antialias: bool | None = None,
) -> NDArray[np.float64]:
    """The (out_size, in_size) matrix that samples one axis; its rows sum to 1.

    The centres of `out_size` equal cells spread over [start, start + extent) are sampled; both are
    in input cells and default to the whole axis. A centre off the axis takes the value at the end.

    - `nearest`: the cell that holds the centre (Pillow's rule, and torch's `nearest-exact`; torch's
      `nearest` agrees for whole factors and else looks half an output cell to the left).
    - `linear`: the edge is repeated. Point samples when shrinking, as torch and OpenCV do.
    - `bicubic`: Keys' kernel with a = -0.5 (MATLAB's and Pillow's; torch and OpenCV use -0.75),
      truncated at the edge and renormalised. When shrinking it is widened, as Pillow and imresize
      do, so that every input cell counts.

    `antialias` overrides that choice of widening. Raises InvalidRequest for sizes or extents that
    are not positive, for `none`, which has no matrix, and for an unknown method.
    """
    span = float(in_size) if extent is None else float(extent)
    if in_size < 1 or out_size < 1 or not 0.0 < span < np.inf:
        raise InvalidRequest(f"cannot resample {in_size} cells over {span} to {out_size}")
    # One division keeps centres that fall exactly on a cell's border exactly there.
    centres = start + (2.0 * np.arange(out_size) + 1.0) * span / (2.0 * out_size)
    if method == "nearest":
        cells = np.clip(np.floor(centres), 0, in_size - 1).astype(np.intp)
        return np.asarray(cells[:, None] == np.arange(in_size), dtype=np.float64)
    if method not in _KERNELS:
        raise InvalidRequest(
            f"no resampling method {method!r} has a matrix: use {', '.join(METHODS[:3])}",
            field="upsampling",
        )
    kernel, reach, widens = _KERNELS[method]
    widening = widens if antialias is None else antialias
    widen = max(1.0, span / out_size) if widening else 1.0
    return _banded(np.clip(centres, 0.0, in_size), in_size, kernel, reach * widen, widen)


def resample(
    array: FloatArray,
    size: Sequence[int] | None,
    method: Method,
    *,
    antialias: bool | None = None,
) -> FloatArray:
    """Resizes the trailing len(size) axes of `array` (..., *S) to (..., *size), separably.

    float64 stays float64, everything else becomes float32. `none` returns `array` as it is, and
    `size` must then be None or the size it has. Raises InvalidRequest when it is another, or when
    there are more sizes than axes.
    """
    values = array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
    if size is None:
        if method != "none":
            raise InvalidRequest(f"upsampling {method!r} needs a size", field="size")
        return values
    target = tuple(size)
    first = values.ndim - len(target)
    if first < 0:
        raise InvalidRequest(f"size {list(target)} has more axes than the map", field="size")
    present = values.shape[first:]
    if method == "none":
        if target != present:
            raise InvalidRequest(
                f"upsampling 'none' keeps the size {list(present)}: leave size {list(target)} out",
                field="upsampling",
            )
        return values
    # Axes that grow least go first, so that the intermediate arrays stay small.
    for axis in sorted(range(len(target)), key=lambda a: target[a] / present[a]):
        if target[axis] != present[axis]:
            matrix = weights(present[axis], target[axis], method, antialias=antialias)
            values = apply_along(matrix, values, first + axis)
    return values


def apply_along(matrix: FloatArray, array: FloatArray, axis: int) -> FloatArray:
    """`matrix` (out, in) applied along one axis of `array`, in the dtype of `array`."""
    before, size, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    factor = matrix.astype(array.dtype, copy=False)
    flat = array.reshape(-1, size, int(np.prod(after, dtype=np.int64)))
    # Without trailing axes one product of two matrices does, where a stack of them would crawl.
    moved = flat[:, :, 0] @ factor.T if not after else np.matmul(factor, flat)
    result: FloatArray = moved.reshape(*before, matrix.shape[0], *after)
    return result


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys (1981), eq. 15 with a = -0.5: third-order accurate, support [-2, 2]."""
    a, t = -0.5, np.abs(x)
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = a * (((t - 5.0) * t + 8.0) * t - 4.0)
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))


_Kernel: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# The kernel, how far it reaches in cells, and whether it is widened when shrinking.
_KERNELS: Final[dict[str, tuple[_Kernel, float, bool]]] = {
    "linear": (_linear, 1.0, False),
    "bicubic": (_keys, 2.0, True),
}


def _banded(
    centres: NDArray[np.float64], in_size: int, kernel: _Kernel, reach: float, widen: float
) -> NDArray[np.float64]:
    """Rows of kernel values around `centres`, each row truncated at the axis and summing to 1."""
    taps = np.arange(int(np.ceil(2.0 * reach)) + 1)
    cells = np.floor(centres - reach).astype(np.intp)[:, None] + taps
    values = kernel((cells + 0.5 - centres[:, None]) / widen)
    values[(cells < 0) | (cells >= in_size)] = 0.0
    values /= values.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(centres), in_size))
    # Taps off the axis weigh 0; added, not assigned, so that they leave the edge cell alone.
    rows = np.broadcast_to(np.arange(len(centres))[:, None], cells.shape)
    np.add.at(matrix, (rows, np.clip(cells, 0, in_size - 1)), values)
    return matrix
