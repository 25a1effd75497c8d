"""Masks as picture files: what counts, in formats that keep the pixels and in those that do not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.pictures import decode_mask
from tests.app.drawing import encoded

SQUARE = np.zeros((60, 80), bool)
SQUARE[13:43, 21:51] = True
COLOURS = [("L", 255), ("RGB", (255, 255, 255)), ("RGB", (255, 255, 0))]


def mask(mode: str, colour: object) -> Image.Image:
    image = Image.new(mode, (80, 60))
    image.paste(colour, (21, 13, 51, 43))
    return image


@pytest.mark.parametrize(("mode", "colour"), COLOURS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_the_ringing_of_a_lossy_file_is_no_mask(kind: str, mode: str, colour: object) -> None:
    options = {"compression": "jpeg"} if kind == "TIFF" else {"subsampling": 0}
    data = encoded(mask(mode, colour), kind, quality=75, **options)
    np.testing.assert_array_equal(decode_mask(data, 50), SQUARE)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_labels_of_a_file_that_keeps_them_count_however_dark(kind: str) -> None:
    data = encoded(mask("L", 1), kind)
    np.testing.assert_array_equal(decode_mask(data, 50), SQUARE)


def test_32_bit_labels_count_too() -> None:
    np.testing.assert_array_equal(decode_mask(encoded(mask("I", 70_000), "TIFF"), 50), SQUARE)


def test_of_a_lossy_file_with_transparency_the_opaque_counts() -> None:
    image = Image.new("RGBA", (80, 60), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (21, 13, 51, 43))
    np.testing.assert_array_equal(decode_mask(encoded(image, "WEBP", quality=60), 50), SQUARE)
