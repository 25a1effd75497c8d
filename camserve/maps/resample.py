"""Separable N-D resampling: each axis by itself.

Cells have half-pixel centres: cell k of an axis covers [k, k + 1), its value sits at k + 0.5, and
a whole axis of `in` cells covers [0, in). Samples are cell centres too (align_corners=False).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from camserve.errors import InvalidRequest
from camserve.maps.samples import KERNELS, FloatArray, Samples

__all__ = ["METHODS", "FloatArray", "Method", "axis_samples", "resample"]

Method = Literal["nearest", "linear", "bicubic", "none"]

METHODS: Final[tuple[Method, ...]] = get_args(Method)


def axis_samples(
    in_size: int,
    out_size: int,
    method: Method,
    *,
    start: float = 0.0,
    extent: float | None = None,
) -> Samples:
    """How one axis of `in_size` cells is sampled `out_size` times.

    The centres of `out_size` equal cells spread over [start, start + extent) are sampled; both are
    in input cells and default to the whole axis. A centre off the axis takes the value at the end.

    - `nearest`: the cell that holds the centre (Pillow's rule, and torch's `nearest-exact`; torch's
      `nearest` agrees for whole factors and else looks half an output cell to the left).
    - `linear`: the edge is repeated. Point samples when shrinking, as torch and OpenCV do.
    - `bicubic`: Keys' kernel with a = -0.5 (MATLAB's and Pillow's; torch and OpenCV use -0.75),
      truncated at the edge and renormalised. When shrinking it is widened, as Pillow and imresize
      do, so that every input cell counts.

    Raises InvalidRequest for sizes or extents that
    are not positive, for `none`, which samples nothing, and for an unknown method.
    """
    span = float(in_size) if extent is None else float(extent)
    if in_size < 1 or out_size < 1 or not 0.0 < span < np.inf:
        raise InvalidRequest(f"cannot resample {in_size} cells over {span} to {out_size}")
    # One division keeps centres that fall exactly on a cell's border exactly there.
    numbers = np.arange(out_size, dtype=np.float64)
    centres: NDArray[np.float64] = start + (2.0 * numbers + 1.0) * span / (2.0 * out_size)
    if method == "nearest":
        return Samples(in_size, centres, method)
    if method not in KERNELS or method == "none":
        raise InvalidRequest(
            f"no resampling method {method!r} has samples: use {', '.join(METHODS[:3])}",
            field="upsampling",
        )
    widens = KERNELS[method][2]
    return Samples(in_size, centres, method, max(1.0, span / out_size) if widens else 1.0)


def resample(
    array: FloatArray,
    size: Sequence[int] | None,
    method: Method,
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
            samples = axis_samples(present[axis], target[axis], method)
            values = samples.of(values, first + axis)
    return values
