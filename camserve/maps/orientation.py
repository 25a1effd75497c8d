"""EXIF orientation: how stored pixels are turned to stand upright, and back.

Exif 2.32, tag 0x0112: the eight ways that row 0 and column 0 of the stored picture can lie.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

from camserve.errors import InvalidRequest

__all__ = ["AXES", "as_stored", "check_orientation", "upright"]

_TO_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# All but the quarter turns are their own inverse.
_TO_STORED: Final = _TO_UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

AXES: Final[dict[int, tuple[bool, bool, bool]]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""Per orientation: whether the upright rows run along the stored columns, and whether the upright
rows, and the upright columns, are met in reverse when the stored ones are counted up."""


def check_orientation(orientation: int) -> None:
    """Raises InvalidRequest unless `orientation` is one of EXIF's, 1 to 8."""
    if orientation not in AXES:
        raise InvalidRequest(f"EXIF orientation {orientation!r} is not one of 1 to 8")


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Stored pixels as people see them; the image itself for orientation 1."""
    check_orientation(orientation)
    return image if orientation == 1 else image.transpose(_TO_UPRIGHT[orientation])


def as_stored(image: Image.Image, orientation: int) -> Image.Image:
    """The inverse of `upright`."""
    check_orientation(orientation)
    return image if orientation == 1 else image.transpose(_TO_STORED[orientation])
