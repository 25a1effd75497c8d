"""Pictures and arrays as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from camserve.maps.orientation import check_orientation

__all__ = ["encode_jpeg", "encode_png", "encode_webp", "npy_parts"]

_ORIENTATION_TAG: Final = 0x0112
_PNG_LEVEL: Final = 1
_QUALITY: Final = 90


def encode_png(image: Image.Image, *, exif_orientation: int | None = None) -> bytes:
    """`image` as PNG. With `exif_orientation`, viewers show the stored pixels upright."""
    return _encoded(image, "PNG", exif_orientation, compress_level=_PNG_LEVEL)


def encode_jpeg(image: Image.Image, *, exif_orientation: int | None = None) -> bytes:
    """`image` as JPEG, on white where it is transparent."""
    if "A" in image.getbands():
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    return _encoded(image, "JPEG", exif_orientation, quality=_QUALITY)


def encode_webp(image: Image.Image, *, exif_orientation: int | None = None) -> bytes:
    """`image` as WebP, lossy."""
    return _encoded(image, "WEBP", exif_orientation, quality=_QUALITY, method=0)


def npy_parts(arrays: Sequence[NDArray[Any]]) -> list[bytes | memoryview]:
    """The .npy file, in C order, of an array, or of several of one shape stacked.

    In parts, of which all but the first are views of the arrays: a file of a large stack would be
    a copy of it, and the stack another one. Raises ValueError for Python objects.
    """
    first = arrays[0]
    if first.dtype.hasobject:
        raise ValueError("an array of objects holds their addresses, not their values")
    shape = first.shape if len(arrays) == 1 else (len(arrays), *first.shape)
    header = io.BytesIO()
    described = {"descr": npy.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, described)
    return [header.getvalue(), *(np.ascontiguousarray(one).data.cast("B") for one in arrays)]


def _encoded(image: Image.Image, kind: str, exif_orientation: int | None, **settings: Any) -> bytes:
    if exif_orientation is not None and exif_orientation != 1:
        check_orientation(exif_orientation)
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = exif_orientation
        settings["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
