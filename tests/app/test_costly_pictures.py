"""Small files that would cost much to decode, refused before a pixel is decoded."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from app.pictures import decode_mask, decode_picture
from camserve.errors import CorruptImage, TooLarge
from tests.app.drawing import encoded

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"


def progressive(repeated: int, image: Image.Image = NOISE) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    whole = encoded(image, "JPEG", progressive=True)
    scan = whole[whole.rindex(START_OF_SCAN) : -len(END)]
    assert whole.endswith(END)
    return whole[: -len(END)] + scan * repeated + END


def multi_picture() -> bytes:
    others = [Image.fromarray(np.asarray(NOISE)[::-1].copy())]
    return encoded(NOISE, "MPO", save_all=True, append_images=others)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("decode", [decode_picture, decode_mask])
def test_a_jpeg_of_thousands_of_scans_is_refused(decode) -> None:
    """Each is a pass over all pixels: 9000 of them over 49 megapixels take a minute."""
    with pytest.raises(CorruptImage, match="more than 100 scans"):
        decode(progressive(9000), 50)


@pytest.mark.usefixtures("undecoded")
def test_scans_behind_a_comment_and_filling_bytes_count_too() -> None:
    data = progressive(200)
    first = data.index(START_OF_SCAN)
    comment = b"\xff\xfe\x00\x06" + END * 2
    with pytest.raises(CorruptImage, match="scans"):
        decode_picture(data[:first] + comment + b"\xff\xff" + data[first:], 50)


@pytest.mark.usefixtures("undecoded")
def test_a_jpeg_of_nothing_but_segments_is_refused() -> None:
    data = progressive(0)
    last = data.rindex(START_OF_SCAN)
    with pytest.raises(CorruptImage, match="10000 segments"):
        decode_picture(data[:last] + b"\xff\xfe\x00\x02" * 20_000 + data[last:], 50)


def test_what_is_no_scan_of_the_picture_does_not_count() -> None:
    """A thumbnail and a profile in its segments, and whatever a camera puts behind its end."""
    scans = START_OF_SCAN * 300
    plain = encoded(NOISE, "JPEG")
    with_profile = encoded(NOISE, "JPEG", icc_profile=scans, comment=scans)
    for data in (plain + scans, with_profile, multi_picture(), progressive(0), progressive(80)):
        image = decode_picture(data, 50).image
        assert image.size == (64, 64)


def deflated(width: int, height: int, tile: tuple[int, int], orientation: int = 1) -> bytes:
    """A gray TIFF of one deflated tile (width, height)."""
    packed = zlib.compress(bytes(tile[0] * min(tile[1], 100)))
    shorts = {258: 8, 259: 8, 262: 1, 274: orientation, 277: 1}
    longs = {256: width, 257: height, 322: tile[0], 323: tile[1], 325: len(packed)}
    entries = len(shorts) + len(longs) + 1
    longs[324] = 8 + 2 + 12 * entries + 4
    fields = sorted(
        [(tag, 3, v) for tag, v in shorts.items()] + [(t, 4, v) for t, v in longs.items()]
    )
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    head = b"II*\x00" + struct.pack("<IH", 8, entries)
    return head + directory + struct.pack("<I", 0) + packed


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("decode", [decode_picture, decode_mask])
def test_a_small_tiff_in_a_huge_tile_is_refused(
    decode, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile of 44000 x 44000 takes 1.9 GB, whatever little of it is the picture."""
    from PIL import TiffImagePlugin

    data = deflated(100, 80, (44_000, 44_000), orientation)
    assert Image.open(io.BytesIO(data)).format == "TIFF"
    monkeypatch.setattr(
        TiffImagePlugin.TiffImageFile, "load", lambda *_: pytest.fail("pixels were decoded")
    )
    with pytest.raises(TooLarge, match=r"in its tiles has 1936\.0 megapixels, more than 50"):
        decode(data, 50)


def test_a_tiff_in_usual_tiles_is_decoded() -> None:
    assert decode_picture(deflated(100, 80, (112, 96)), 0.0108).image.size == (100, 80)
    with pytest.raises(TooLarge):
        decode_picture(deflated(100, 80, (112, 96)), 0.0107)
    with pytest.raises(CorruptImage):
        decode_picture(deflated(100, 80, (0, 0)), 50)
