"""Scales maps to [0, 1] for pictures: each by itself, or several by one range.

Pictures show evidence *for* the target. A signed map (the captum convention) is therefore clipped
at zero, and its scale starts there, so that its picture agrees with that of a rectified map; the
sign lives on in the numbers. The other way, zero in the middle of a diverging scale, would tint
the whole photograph with a colour that stands for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from camserve.maps.resample import FloatArray

__all__ = ["Mask", "to_unit", "unit_ranges"]

Mask = NDArray[np.bool_]

# A range below this share of the largest value is rounding: resampling a constant map leaves it.
_FLAT: Final = 1e-6


def unit_ranges(
    maps: Sequence[FloatArray], *, masks: Sequence[Mask | None] | None = None
) -> list[tuple[float, float]]:
    """The values that become 0 and 1, per map: what a colour bar says.

    The minimum (0 if that is negative) and the maximum over the finite values where the mask is
    true; (v, v) for a flat map, (0, 0) if nothing is positive.
    `masks` has one entry per map, None for all of it. Raises ValueError if the counts differ.
    """
    chosen = [None] * len(maps) if masks is None else list(masks)
    ranges = [_range(values, mask) for values, mask in zip(maps, chosen, strict=True)]
    return [(0.0, 0.0) if limits is None else limits for limits in ranges]


def to_unit(
    maps: Sequence[FloatArray],
    *,
    limits: Sequence[tuple[float, float]] | None = None,
    masks: Sequence[Mask | None] | None = None,
) -> list[NDArray[np.float32]]:
    """The maps scaled to [0, 1] by `limits`, one pair per map, float32 and of the same shapes.

    limits: by default the `unit_ranges`; what lies beyond is clipped. A flat map becomes zeros, and
    so does what is not finite or not in the mask. Raises ValueError if the counts differ.
    """
    chosen = [None] * len(maps) if masks is None else list(masks)
    ranges = unit_ranges(maps, masks=chosen) if limits is None else limits
    return [_scaled(*item) for item in zip(maps, ranges, chosen, strict=True)]


def _range(values: FloatArray, mask: Mask | None) -> tuple[float, float] | None:
    """The clipped range of what counts, or None if nothing does."""
    low, high = _extremes(values, True if mask is None else mask)
    if not np.isfinite(high - low):
        counted = np.isfinite(values) if mask is None else np.isfinite(values) & mask
        low, high = _extremes(values, counted)
    return (max(low, 0.0), max(high, 0.0)) if low <= high else None


def _extremes(values: FloatArray, where: Mask | Literal[True]) -> tuple[float, float]:
    """Minimum and maximum, (inf, -inf) of nothing. `where` spares a copy of a large map."""
    return (
        float(values.min(where=where, initial=np.inf)),
        float(values.max(where=where, initial=-np.inf)),
    )


def _scaled(
    values: FloatArray, limits: tuple[float, float], mask: Mask | None
) -> NDArray[np.float32]:
    low, high = limits
    if high - low <= _FLAT * high:
        return np.zeros(values.shape, dtype=np.float32)
    unit = np.clip(values, low, high)
    unit -= low
    unit /= high - low
    unit = unit.astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        unit[~finite] = 0.0
    if mask is not None:
        unit *= mask
    return unit
