"""Bytes that other readers read back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from camserve.errors import InvalidRequest
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp, npy_parts
from camserve.maps.orientation import upright

GRADIENT = Image.fromarray(
    np.stack(np.broadcast_arrays(np.arange(60)[:, None], np.arange(90) * 2, 128), axis=2).astype(
        np.uint8
    )
)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_is_lossless(mode):
    picture = GRADIENT.convert(mode)
    data = encode_png(picture)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    back = Image.open(io.BytesIO(data))
    assert back.mode == mode
    assert np.array_equal(back, picture)
    assert not back.getexif()


@pytest.mark.parametrize("encode", [encode_png, encode_jpeg, encode_webp])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_viewers_turn_the_picture_as_they_turn_the_upload(encode, orientation):
    back = Image.open(io.BytesIO(encode(GRADIENT, exif_orientation=orientation)))
    assert back.getexif().get(0x0112, 1) == orientation
    shown = np.asarray(ImageOps.exif_transpose(back).convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(upright(GRADIENT, orientation))).max() < 12


def test_transparency_becomes_white_in_jpeg():
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert np.asarray(Image.open(io.BytesIO(encode_jpeg(clear)))).min() > 250


def test_an_orientation_that_exif_does_not_know_is_refused():
    with pytest.raises(InvalidRequest):
        encode_png(GRADIENT, exif_orientation=9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
def test_npy_is_read_back_as_it_was(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype).transpose(2, 0, 1)
    for arrays, expected in (([array], array), ([array, array + 1], np.stack([array, array + 1]))):
        back = np.load(io.BytesIO(b"".join(npy_parts(arrays))), allow_pickle=False)
        assert back.dtype == dtype
        assert np.array_equal(back, expected)
        assert back.flags.c_contiguous


def test_npy_is_no_copy_of_the_numbers():
    arrays = [np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)]
    _, *views = npy_parts(arrays)
    assert all(np.shares_memory(*pair) for pair in zip(views, arrays, strict=True))


def test_objects_are_never_pickled():
    with pytest.raises(ValueError, match="object"):
        npy_parts([np.array([object()])])
