"""Picture files, opened with suspicion: what decoding them would cost is known before it begins."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from app.file_kinds import kind_of
from camserve.errors import CamserveError, CorruptImage, TooLarge, UnreadableImage

__all__ = ["FORMATS", "damage_is_corrupt_image", "open_picture"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# libtiff's own limit for JPEG; encoders write about ten. Each costs a pass over the whole picture,
# and may be as short as 76 bytes
_MAX_SCANS: Final = 100
_MAX_SEGMENTS: Final = 10_000  # of 65 KB, or a few for each scan
_JPEG_MAGIC: Final = b"\xff\xd8"
_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # of those that go on, not \xff\x00
_SCAN, _END = 0xDA, 0xD9
_BEGINS_WELL: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*", re.DOTALL
)
_BARE: Final = (0x01, 0xD8)  # markers without a length behind them
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
# what most formats can count to; of 50 million rows, Pillow's table of rows alone takes 400 MB
_MAX_SIDE: Final = 65_535
# Pillow decodes these in Python: some bytes that end a line of 50 million pixels take it seconds
_MAX_RLE_PIXELS: Final = 4_000_000

# our own limit, a setting, is checked before a pixel is decoded
Image.MAX_IMAGE_PIXELS = None


def open_picture(data: bytes, max_megapixels: float) -> Image.Image:
    """The picture, of which no pixel is decoded yet.

    Raises UnreadableImage; TooLarge, also for the tiles that its pixels come in; CorruptImage.
    """
    with damage_is_corrupt_image():
        image = _opened(data)
    width, height = image.size
    _check_pixels("the picture", width, height, max_megapixels)
    _check_sides(width, height)
    _check_run_lengths(image)
    with damage_is_corrupt_image():
        tags = getattr(image, "tag_v2", {})
        _check_pixels("the picture in its tiles", *_tiled(tags, width, height), max_megapixels)
    if data.startswith(_JPEG_MAGIC):
        _check_scans(data)
    return image


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if _BEGINS_WELL.match(data):
            raise CorruptImage(
                "the picture is truncated or damaged in its header: send the whole file"
            ) from error
        kind = kind_of(data)
        what = f"the file seems to be {kind}," if kind else "not a picture, or"
        raise UnreadableImage(
            f"{what} of a kind that camserve does not read: send {', '.join(FORMATS)}",
            formats=list(FORMATS),
        ) from error


def _check_pixels(what: str, width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1_000_000:
        raise TooLarge(
            f"{what} has {width * height / 1e6:.1f} megapixels, more than {max_megapixels:g}: "
            "send a smaller one",
            limit=max_megapixels,
            width=width,
            height=height,
        )


def _check_sides(width: int, height: int) -> None:
    if max(width, height) > _MAX_SIDE:
        raise TooLarge(
            f"the picture is {width}x{height} pixels, and a side has at most {_MAX_SIDE}: cut it",
            limit=_MAX_SIDE,
            width=width,
            height=height,
        )


def _check_run_lengths(image: Image.Image) -> None:
    coded = any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ()))
    if coded and image.width * image.height > _MAX_RLE_PIXELS:
        raise TooLarge(
            f"a BMP coded in run lengths has at most {_MAX_RLE_PIXELS / 1e6:g} megapixels: save it "
            "uncompressed, or as PNG",
            limit=_MAX_RLE_PIXELS / 1e6,
        )


def _tiled(tags: Any, width: int, height: int) -> tuple[int, int]:
    """The size rounded up to whole tiles, which are decoded whole, of a TIFF that has any.

    Strips need no such care: libtiff cuts them at the picture's last row.
    """
    if _TILE_WIDTH not in tags:
        return width, height
    # the tags count the stored pixels; which of the two is turned does not matter to the area
    stored_width, stored_height = tags[256], tags[257]
    across, down = int(tags[_TILE_WIDTH]), int(tags[_TILE_LENGTH])
    return -(-stored_width // across) * across, -(-stored_height // down) * down


def _check_scans(data: bytes) -> None:
    """Raises CorruptImage for a JPEG of more scans, or segments, than anybody writes.

    Follows the markers as libjpeg does: up to the end of the first picture, over the segments, and
    through the coded pixels, where only a marker has anything but 0 behind 0xFF.
    """
    scans = segments = position = 0
    while (found := _MARKER.search(data, position)) and (marker := found[1][0]) != _END:
        scans += marker == _SCAN
        segments += 1
        if scans > _MAX_SCANS or segments > _MAX_SEGMENTS:
            raise CorruptImage(
                f"the JPEG comes in more than {_MAX_SCANS} scans, or {_MAX_SEGMENTS} segments: "
                "save it anew",
                limit=_MAX_SCANS,
            )
        position = found.end()
        if marker not in _BARE:
            position += int.from_bytes(data[position : position + 2])


@contextmanager
def damage_is_corrupt_image() -> Iterator[None]:
    """Hostile bytes make decoders raise anything from OSError to struct.error."""
    try:
        yield
    except (CamserveError, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(
            f"the picture is truncated or damaged ({error}): send the whole file"
        ) from error
