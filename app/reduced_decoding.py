"""By how much a JPEG is reduced while it is decoded: libjpeg's inverse transform gives a half, a
quarter or an eighth of the pixels a side for less than it takes to give all of them."""

from __future__ import annotations

from typing import Final

from camserve.maps.geometry import Geometry
from camserve.maps.orientation import AXES

__all__ = ["MARGIN", "reduction_of"]

MARGIN: Final = 4
"""So many times the pixels a side that the model's resize leaves must be there after it. Then 99
of 100 levels of a photograph are within 2 of those without: see docs/decisions/reduced-jpegs.md.
"""
_REDUCTIONS: Final = (8, 4, 2)
# `nearest` takes single pixels, and `box` all of a pixel or nothing: both see each that is missing
_FILTERS: Final = ("bilinear", "hamming", "bicubic", "lanczos")


def reduction_of(geometry: Geometry, filter_: str, copy_side: int | None) -> int:
    """1, 2, 4 or 8, for a model's resize with that filter.

    copy_side: pixels of the long side of the copy that is drawn on, if one is made.
    """
    if filter_ not in _FILTERS:
        return 1
    height, width = geometry.resized
    needed = (width, height) if AXES[geometry.orientation][0] else (height, width)
    spare = [stored / (MARGIN * side) for stored, side in zip(geometry.stored, needed, strict=True)]
    if copy_side is not None:
        spare.append(max(geometry.stored) / copy_side)
    return next((by for by in _REDUCTIONS if by <= min(spare)), 1)
