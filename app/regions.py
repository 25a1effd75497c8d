"""Boxes, points and masks on an upload, brought to the grid that the model saw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import read_array
from app.documents import NPY_MAGIC, decoded
from app.pictures import decode_mask
from camserve.contracts.reductions import Box, Mask, Point
from camserve.errors import InvalidRequest
from camserve.maps.areas import box_shares, mask_shares
from camserve.maps.geometry import Geometry
from camserve.maps.grids import Grid
from camserve.settings import Settings

__all__ = ["PositionMask", "Regions", "read_mask", "region_on"]

FIELD = "params.region"
# far above what rounding does to a share, far below what anybody can see
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class PositionMask:
    """A mask that was read: which positions of the upload's own grid it holds."""

    positions: NDArray[np.bool_]


class Regions:
    """The regions of one request, which often asks for one of them on many inputs and targets.

    A mask of 49 megapixels takes half a second to read, and another one to lay on a geometry:
    equal ones are read once, and laid once on equal geometries.
    """

    def __init__(self, settings: Settings) -> None:
        self._read = cache(partial(read_mask, settings=settings))
        self._laid = cache(region_on)

    def on(self, geometry: Geometry | Grid, region: Box | Point | Mask) -> NDArray[np.bool_]:
        """As `region_on`. Raises what `read_mask` does, too."""
        read = self._read(region) if isinstance(region, Mask) else region
        return self._laid(geometry, read)


def region_on(geometry: Geometry | Grid, region: Box | Point | PositionMask) -> NDArray[np.bool_]:
    """Which cells of the model's input (*S) the region covers by half at least.

    Of a region that covers no cell by half, such as a thin line: those of which it covers at least
    half as much as of the one that it covers most. Raises InvalidRequest for a region that misses
    the input, or a mask of another size.
    """
    size = _size(geometry)
    shares: NDArray[Any]
    if isinstance(region, PositionMask):
        if region.positions.shape != size:
            raise InvalidRequest(
                f"the mask is {_by(region.positions.shape)}, the input {_by(size)}: they must be "
                f"of one size, rows first{_turned(geometry, region.positions.shape)}",
                field=FIELD,
                expected=list(size),
            )
        cells = geometry.cells()
        if isinstance(geometry, Grid):  # cell by cell
            shares = region.positions.transpose([one.axis for one in cells]).astype(np.float32)
        else:
            shares = mask_shares(cells, region.positions)
    else:
        shares = box_shares(geometry.cells(), _bounds(geometry, region))
    most = float(shares.max())
    if most <= 0.0:
        raise InvalidRequest(
            "the region holds nothing that the model saw of the input", field=FIELD
        )
    covered = shares >= (0.5 if most >= 0.5 else most / 2) - _ROUNDING
    return np.ascontiguousarray(covered)  # safetensors writes a view's memory as it lies


def read_mask(mask: Mask, settings: Settings) -> PositionMask:
    """The mask in a picture file (what is neither black nor transparent), or a .npy file (not 0).

    Raises InvalidRequest, UnreadableImage, CorruptImage, InvalidInput or TooLarge.
    """
    data = decoded(mask.mask.base64, f"{FIELD}.mask.base64")
    if data.startswith(NPY_MAGIC):
        return PositionMask(read_array(data) != 0)
    return PositionMask(decode_mask(data, settings.max_megapixels))


def _turned(geometry: Geometry | Grid, found: tuple[int, ...]) -> str:
    """The likely reason why rows and columns of a mask are exchanged."""
    if (
        not isinstance(geometry, Geometry)
        or geometry.orientation == 1
        or found != geometry.stored[::-1]
    ):
        return ""
    return ". Viewers turn the upload by its EXIF orientation; the mask lies on its stored pixels"


def _size(geometry: Geometry | Grid) -> tuple[int, ...]:
    return geometry.stored if isinstance(geometry, Geometry) else geometry.sent_size


def _bounds(geometry: Geometry | Grid, region: Box | Point) -> list[tuple[float, float]]:
    """Start and end on each axis, in the order of the upload's rows and columns or axes."""
    size = _size(geometry)
    axes = len(size)
    if isinstance(region, Point):
        given, needed, what = region.point, axes, "a point"
    else:
        given, needed, what = region.box, 2 * axes, "a box"
    if len(given) != needed:
        raise InvalidRequest(
            f"{what} on this input has {needed} number{'s' if needed > 1 else ''}, not "
            f"{len(given)}: the input is {_by(size)}",
            field=FIELD,
        )
    if isinstance(region, Point):
        starts = [math.floor(value) for value in region.point]
        pairs = [(float(start), start + 1.0) for start in starts]
    else:
        pairs = list(zip(region.box[:axes], region.box[axes:], strict=True))
    if isinstance(geometry, Geometry):  # x before y, as everybody writes boxes on pictures
        pairs.reverse()
    for (start, end), length in zip(pairs, size, strict=True):
        if not 0 <= start < end <= length:
            fitting = (
                f"positions on that axis are 0 to {length - 1}: {start:g} is none"
                if isinstance(region, Point)
                else f"axis there goes from 0 to {length}, with its end behind its start: "
                f"{start:g} to {end:g} does not fit"
            )
            raise InvalidRequest(
                f"{what} must lie on the input, whose {fitting}", field=FIELD, maximum=length
            )
    return pairs


def _by(size: tuple[int, ...]) -> str:
    """`40 x 48`, `19 positions long`."""
    return " x ".join(map(str, size)) if len(size) != 1 else f"{size[0]} positions long"
