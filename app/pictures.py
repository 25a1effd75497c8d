"""Pictures: decoded to what models take, and kept as a small copy to draw overlays on."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.picture_files import FORMATS, damage_is_corrupt_image, open_picture
from camserve.errors import InvalidInput
from camserve.maps.encode import encode_jpeg
from camserve.maps.orientation import as_stored

__all__ = ["decode_mask", "decode_picture", "display_copy", "open_display_copy"]

ORIENTATION: Final = 0x0112  # EXIF tag
KEEP_BYTES: Final = 512 * 1024  # a small upload is kept as it came, without loss
_SHOWN_AS_STORED: Final = ("JPEG", "PNG", "WEBP")
_PLAIN_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LOSSY: Final = ("JPEG", "MPO", "WEBP")  # whose black and white are only nearly so
_LOSSY_TIFF: Final = ("jpeg", "tiff_jpeg")  # compressions
_WHITISH: Final = 128


def decode_picture(data: bytes, max_megapixels: float) -> tuple[Image.Image, int]:
    """The first frame, as stored in the file and fully decoded, and its EXIF orientation (1 to 8).

    Modes: 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr; 16-bit gray becomes L, anything else RGB.
    Raises UnreadableImage, TooLarge or CorruptImage before a pixel is decoded; CorruptImage,
    InvalidInput.
    """
    image = open_picture(data, max_megapixels)
    with damage_is_corrupt_image():
        image, orientation = _stored(image)
        return _plain(image), orientation


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
    found = image.getexif().get(ORIENTATION, 1)
    # a fraction may equal 6, too, and is not JSON
    orientation = next((known for known in range(1, 9) if known == found), 1)
    is_tiff = image.format == "TIFF"
    image.load()
    # Pillow itself stands TIFF pictures upright, and no others
    return (as_stored(image, orientation) if is_tiff else image), orientation


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):  # nothing says which of them is white
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise InvalidInput(f"the picture holds {kind} numbers: send it as a .npy tensor")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def display_copy(data: bytes, image: Image.Image, long_side_px: int) -> bytes:
    """A picture file with the stored pixels of `image`, no side longer than `long_side_px`."""
    small = max(image.size) <= long_side_px
    if small and len(data) <= KEEP_BYTES and image.format in _SHOWN_AS_STORED:
        return data
    copy = image.convert("RGB")
    copy.info = {}  # a comment or profile of the upload may be longer than a JPEG's can be
    copy.thumbnail((long_side_px, long_side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode_jpeg(copy)


def open_display_copy(data: bytes) -> Image.Image:
    """The kept copy as RGB, in the upload's stored orientation, with nothing else of the upload."""
    image = Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
    image.info = {}  # comments, profiles: Pillow writes them into what is drawn on it
    return image
