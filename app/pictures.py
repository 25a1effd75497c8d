"""Picture files: decoded with suspicion, and kept as a small copy to draw overlays on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camserve.errors import CamserveError, CorruptImage, InvalidInput, TooLarge, UnreadableImage
from camserve.maps.encode import encode_jpeg

__all__ = ["FORMATS", "decode_mask", "decode_picture", "display_copy", "open_display_copy"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTATION = 0x0112  # EXIF tag
KEEP_BYTES = 512 * 1024  # a small upload is kept as it came, without loss
_SHOWN_AS_STORED = ("JPEG", "PNG", "WEBP")
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# our own limit, a setting, is checked before a pixel is decoded
Image.MAX_IMAGE_PIXELS = None


def decode_picture(data: bytes, max_megapixels: float) -> tuple[Image.Image, int]:
    """The first frame, as stored in the file and fully decoded, and its EXIF orientation (1 to 8).

    Modes: 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr; 16-bit gray becomes L, anything else RGB.
    Raises UnreadableImage, TooLarge (before a pixel is decoded), CorruptImage or InvalidInput.
    """
    image = _opened(data, max_megapixels)
    with _damage_is_corrupt_image():
        image.load()
        # after the load: Pillow itself stands TIFF pictures upright and then drops the tag
        orientation = image.getexif().get(ORIENTATION, 1)
        image = _plain(image)
    # a fraction may equal 6, too, and is not JSON
    return image, next((known for known in range(1, 9) if known == orientation), 1)


def decode_mask(data: bytes, max_megapixels: float) -> NDArray[np.bool_]:
    """Which pixels (h, w) are neither black nor transparent; of one channel, not 0.

    Raises UnreadableImage, TooLarge or CorruptImage.
    """
    image = _opened(data, max_megapixels)
    with _damage_is_corrupt_image():
        image.load()
        if image.mode != "P" and len(image.getbands()) == 1:
            # with all of their bits: of 16, a label of 1 is no black
            return np.asarray(np.asarray(image) != 0)
        shown = _plain(image).convert("RGBA")
        red, green, blue, alpha = (np.asarray(band) for band in shown.split())
        return np.asarray(((red | green | blue) > 0) & (alpha > 0))


def _opened(data: bytes, max_megapixels: float) -> Image.Image:
    """The picture, of which no pixel is decoded yet. Raises UnreadableImage, TooLarge."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise UnreadableImage(
            f"not a picture of a kind that camserve reads ({', '.join(FORMATS)})",
            formats=list(FORMATS),
        ) from error
    width, height = image.size
    if width * height > max_megapixels * 1_000_000:
        raise TooLarge(
            f"the picture has {width * height / 1e6:.1f} megapixels, more than {max_megapixels:g}: "
            "send a smaller one",
            limit=max_megapixels,
            width=width,
            height=height,
        )
    return image


@contextmanager
def _damage_is_corrupt_image() -> Iterator[None]:
    """Hostile bytes make decoders raise anything from OSError to struct.error."""
    try:
        yield
    except (CamserveError, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(
            f"the picture is truncated or damaged ({error}): send the whole file"
        ) from error


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise InvalidInput("the picture holds floating-point numbers: send it as a .npy tensor")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def display_copy(data: bytes, image: Image.Image, long_side_px: int) -> bytes:
    """A picture file with the stored pixels of `image`, no side longer than `long_side_px`."""
    small = max(image.size) <= long_side_px
    if small and len(data) <= KEEP_BYTES and image.format in _SHOWN_AS_STORED:
        return data
    copy = image.convert("RGB")
    copy.thumbnail((long_side_px, long_side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode_jpeg(copy)


def open_display_copy(data: bytes) -> Image.Image:
    """The kept copy as RGB, in the upload's stored orientation."""
    return Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
