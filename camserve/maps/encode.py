"""Pictures and arrays as bytes."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camserve.maps.orientation import check_orientation

__all__ = ["encode_jpeg", "encode_png", "encode_webp", "npy_bytes"]

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


def npy_bytes(array: NDArray[Any]) -> bytes:
    """`array` as a .npy file, in C order. Raises ValueError for Python objects."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _encoded(image: Image.Image, kind: str, exif_orientation: int | None, **settings: Any) -> bytes:
    if exif_orientation is not None and exif_orientation != 1:
        check_orientation(exif_orientation)
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = exif_orientation
        settings["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
