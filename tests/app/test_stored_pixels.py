"""Pixels are counted as the file stores them, in every format that knows an orientation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.documents import Upload
from app.inputs import prepare
from app.pictures import ORIENTATION, decode_mask, decode_picture
from app.regions import region_on
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.reductions import Box
from camserve.maps.geometry import Geometry
from camserve.settings import Settings
from tests.app.drawing import encoded

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
STORED = np.zeros((16, 24), np.uint8)
STORED[2:6, 14:22] = 255


def turned(kind: str, orientation: int, pixels: np.ndarray = STORED) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(pixels).convert("RGB"), kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_come_as_they_are_stored_with_their_orientation(kind: str, orientation: int) -> None:
    decoded = decode_picture(turned(kind, orientation), 50)
    image, found = decoded.image, decoded.orientation
    assert found == orientation
    np.testing.assert_array_equal(np.asarray(image.convert("L")) > 127, STORED > 127)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_a_compressed_tiff_too(compression: str) -> None:
    """These, libtiff decodes: by another way than the plain ones."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = Image.fromarray(STORED).convert("RGB")
    data = encoded(picture, "TIFF", exif=exif, compression=compression)
    decoded = decode_picture(data, 50)
    image, found = decoded.image, decoded.orientation
    assert found == 6
    np.testing.assert_array_equal(np.asarray(image.convert("L")) > 127, STORED > 127)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_box_lands_on_the_same_stored_pixels(kind: str, orientation: int) -> None:
    spec = PictureSpec(height=24, width=24, resize="none", colors="L")
    (prepared,) = prepare(Upload(turned(kind, orientation)), spec, Settings())
    assert isinstance(prepared.geometry, Geometry)
    assert prepared.geometry.stored == (16, 24)
    region = region_on(prepared.geometry, Box(box=(14, 2, 22, 6)))
    np.testing.assert_array_equal(region, prepared.tensor[0] > 127)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_mask_is_read_as_it_is_stored(kind: str, orientation: int) -> None:
    np.testing.assert_array_equal(decode_mask(turned(kind, orientation), 50), STORED > 127)
