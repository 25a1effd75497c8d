"""Pictures: decoded to what models take, and kept as a small copy to draw overlays on."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.picture_files import FORMATS, damage_is_corrupt_image, open_picture
from camserve.errors import InvalidInput
from camserve.maps.encode import encode_jpeg
from camserve.maps.orientation import as_stored
from camserve.maps.resizing import Size

__all__ = [
    "Decoded",
    "copy_side",
    "decode_mask",
    "decode_picture",
    "display_copy",
    "open_display_copy",
]

ORIENTATION: Final = 0x0112  # EXIF tag
KEEP_BYTES: Final = 512 * 1024  # a small upload is kept as it came, without loss
_SHOWN_AS_STORED: Final = ("JPEG", "PNG", "WEBP")
_PLAIN_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LOSSY: Final = ("JPEG", "MPO", "WEBP")  # whose black and white are only nearly so
_LOSSY_TIFF: Final = ("jpeg", "tiff_jpeg")  # compressions
_WHITISH: Final = 128


@dataclass(frozen=True)
class Decoded:
    """A picture's first frame, as stored in the file and fully decoded.

    image: modes 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr; 16-bit gray becomes L, anything else RGB.
    stored: height and width in the file. orientation: EXIF, 1 to 8. reduction: how many stored
    pixels a side became one of the image; the last of a row or a column may be of fewer.
    """

    image: Image.Image
    stored: Size
    orientation: int
    reduction: int = 1

    @cached_property
    def rgb(self) -> Image.Image:
        """The very image, if that is what it is."""
        return self.image if self.image.mode == "RGB" else self.image.convert("RGB")


def decode_picture(
    data: bytes,
    max_megapixels: float,
    reduction: Callable[[Size, int, str | None], int] | None = None,
) -> Decoded:
    """The picture in `data`.

    reduction: by how much a JPEG of that stored size, orientation and format may be reduced while
    it is decoded, 1, 2, 4 or 8; what it raises comes before a pixel is decoded.
    Raises UnreadableImage, TooLarge or CorruptImage before a pixel is decoded; CorruptImage,
    InvalidInput.
    """
    image = open_picture(data, max_megapixels)
    with damage_is_corrupt_image():
        whole, by = (image.height, image.width), 1
        if reduction is not None and isinstance(image, JpegImageFile):
            by = reduction(whole, _orientation(image), image.format)
            if by > 1:
                image.draft(None, (image.width // by, image.height // by))
        image, orientation = _stored(image)
        stored = whole if by > 1 else (image.height, image.width)
        return Decoded(_plain(image), stored, orientation, by)


def decode_mask(data: bytes, max_megapixels: float) -> NDArray[np.bool_]:
    """Which of the stored pixels (h, w) are neither black nor transparent; of one channel, not 0.
    Of a lossy format: which are nearer to white, and opaque, than to black.

    Raises UnreadableImage, TooLarge or CorruptImage.
    """
    image = open_picture(data, max_megapixels)
    with damage_is_corrupt_image():
        lossy = image.format in _LOSSY or image.info.get("compression") in _LOSSY_TIFF
        image, _ = _stored(image)
        if not lossy and image.mode != "P" and len(image.getbands()) == 1:
            # with all of their bits: of 16, a label of 1 is no black
            return np.asarray(np.asarray(image) != 0)
        shown = (image if image.mode in _PLAIN_MODES else image.convert("RGB")).convert("RGBA")
        red, green, blue, alpha = (np.asarray(band) for band in shown.split())
        least = _WHITISH if lossy else 1
        return np.asarray((np.maximum(np.maximum(red, green), blue) >= least) & (alpha >= least))


def _stored(image: Image.Image) -> tuple[Image.Image, int]:
    """The decoded pixels as the file stores them, and its EXIF orientation (1 to 8)."""
    orientation = _orientation(image)
    is_tiff = image.format == "TIFF"
    image.load()
    # Pillow itself stands TIFF pictures upright, and no others
    return (as_stored(image, orientation) if is_tiff else image), orientation


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ORIENTATION, 1)
    # a fraction may equal 6, too, and is not JSON
    return next((known for known in range(1, 9) if known == found), 1)


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):  # nothing says which of them is white
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise InvalidInput(f"the picture holds {kind} numbers: send it as a .npy tensor")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def copy_side(stored: Size, size: int, kind: str | None, long_side_px: int) -> int | None:
    """The long side of the copy of a picture file of `size` bytes and that kind; None for a file
    that is kept as it came."""
    long_side = max(stored)
    if long_side <= long_side_px and size <= KEEP_BYTES and kind in _SHOWN_AS_STORED:
        return None
    return min(long_side, long_side_px)


def display_copy(data: bytes, picture: Decoded, long_side_px: int) -> bytes:
    """A picture file with the stored pixels of `picture`, no side longer than `long_side_px`."""
    side = copy_side(picture.stored, len(data), picture.image.format, long_side_px)
    if side is None:
        return data
    height, width = _scaled(picture.stored, side)
    rows, columns = (one / picture.reduction for one in picture.stored)
    copy = picture.rgb.resize(
        (width, height), Image.Resampling.HAMMING, (0, 0, columns, rows), reducing_gap=2.0
    )
    copy.info = {}  # a comment or profile of the upload may be longer than a JPEG's can be
    return encode_jpeg(copy)


def _scaled(stored: Size, long_side: int) -> Size:
    height, width = (max(1, round(side * long_side / max(stored))) for side in stored)
    return height, width


def open_display_copy(data: bytes) -> Image.Image:
    """The kept copy as RGB, in the upload's stored orientation, with nothing else of the upload."""
    stored = Image.open(io.BytesIO(data), formats=FORMATS)
    stored.load()
    image = stored if stored.mode == "RGB" else stored.convert("RGB")
    image.info = {}  # comments, profiles: Pillow writes them into what is drawn on it
    return image
