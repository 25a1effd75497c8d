"""Picture files of every kind, the strange ones and the hostile ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from app.documents import Upload
from app.inputs import prepare
from app.pictures import ORIENTATION, decode_picture, display_copy, open_display_copy
from camserve.contracts.input_specs import PictureSpec
from camserve.errors import CorruptImage, InvalidInput, RequestError, TooLarge, UnreadableImage
from camserve.settings import Settings

SETTINGS = Settings()
RGB = PictureSpec(height=16, width=16)
GRAY = PictureSpec(height=16, width=16, colors="L")
CORNERS = np.array(
    [[[250, 10, 10], [10, 250, 10], [250, 250, 10]], [[10, 10, 250], [10, 10, 10], [250] * 3]],
    np.uint8,
)


def corners(cell: int = 8) -> Image.Image:
    """Six colours, each where it alone is: 24 x 16 pixels, no symmetry."""
    return Image.fromarray(CORNERS.repeat(cell, 0).repeat(cell, 1))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels16() -> Image.Image:
    return Image.fromarray(np.asarray(corners().convert("L")).astype(np.uint16) * 257)


def transparent_palette() -> bytes:
    return encoded(corners().quantize(16), "PNG", transparency=0)


def animation(kind: str) -> bytes:
    others = [Image.new("RGB", (24, 16), color) for color in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(corners(), kind, save_all=True, append_images=others, duration=50, **options)


def gray_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").convert("RGB"), float)


COLOUR = np.asarray(corners(), float)
LEVELS = gray_of(corners())
BITS = np.asarray(corners().convert("1").convert("RGB"), float)
KINDS: dict[str, tuple[Callable[[], bytes], np.ndarray, float]] = {
    "JPEG RGB": (lambda: encoded(corners(), "JPEG", quality=98, subsampling=0), COLOUR, 12),
    "JPEG L": (lambda: encoded(corners().convert("L"), "JPEG", quality=98), LEVELS, 12),
    "JPEG CMYK": (lambda: encoded(corners().convert("CMYK"), "JPEG", quality=98), COLOUR, 12),
    "JPEG progressive": (lambda: encoded(corners(), "JPEG", progressive=True, quality=98,
                                         subsampling=0), COLOUR, 12),
    "PNG RGB": (lambda: encoded(corners(), "PNG"), COLOUR, 0),
    "PNG RGBA": (lambda: encoded(corners().convert("RGBA"), "PNG"), COLOUR, 0),
    "PNG 1": (lambda: encoded(corners().convert("1"), "PNG"), BITS, 0),
    "PNG L": (lambda: encoded(corners().convert("L"), "PNG"), LEVELS, 0),
    "PNG LA": (lambda: encoded(corners().convert("LA"), "PNG"), LEVELS, 0),
    "PNG P": (lambda: encoded(corners().quantize(16), "PNG"), COLOUR, 4),
    "PNG P transparent": (transparent_palette, COLOUR, 4),
    "PNG 16 bit": (lambda: encoded(levels16(), "PNG"), LEVELS, 0),
    "PNG animated": (lambda: animation("PNG"), COLOUR, 0),
    "GIF": (lambda: encoded(corners().quantize(16), "GIF"), COLOUR, 4),
    "GIF animated": (lambda: animation("GIF"), COLOUR, 4),
    "WEBP lossless": (lambda: encoded(corners(), "WEBP", lossless=True), COLOUR, 0),
    "WEBP RGBA": (lambda: encoded(corners().convert("RGBA"), "WEBP", lossless=True), COLOUR, 0),
    "WEBP animated": (lambda: animation("WEBP"), COLOUR, 0),
    "BMP": (lambda: encoded(corners(), "BMP"), COLOUR, 0),
    "BMP 1": (lambda: encoded(corners().convert("1"), "BMP"), BITS, 0),
    "BMP P": (lambda: encoded(corners().quantize(16), "BMP"), COLOUR, 4),
    "TIFF RGB": (lambda: encoded(corners(), "TIFF"), COLOUR, 0),
    "TIFF LZW": (lambda: encoded(corners(), "TIFF", compression="tiff_lzw"), COLOUR, 0),
    "TIFF CMYK": (lambda: encoded(corners().convert("CMYK"), "TIFF"), COLOUR, 0),
    "TIFF YCbCr": (lambda: encoded(corners().convert("YCbCr"), "TIFF"), COLOUR, 3),
    "TIFF 16 bit": (lambda: encoded(levels16(), "TIFF"), LEVELS, 0),
    "TIFF group 4": (lambda: encoded(corners().convert("1"), "TIFF", compression="group4"), BITS,
                     0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_and_pixel(kind: str) -> None:
    make, expected, tolerance = KINDS[kind]
    data = make()
    decoded = decode_picture(data, 50)
    image, orientation = decoded.image, decoded.orientation
    assert (image.size, orientation) == ((24, 16), 1)
    assert np.abs(np.asarray(image.convert("RGB"), float) - expected).max() <= tolerance
    shown = open_display_copy(display_copy(data, decoded, 1024))
    assert shown.mode == "RGB"
    # a JPEG of hard edges is true only away from them
    middles = np.asarray(shown, float)[4::8, 4::8] - expected[4::8, 4::8]
    assert np.abs(middles).max() <= max(tolerance, 30)
    for spec in (RGB, GRAY):
        assert prepare(Upload(data), spec, SETTINGS)[0].tensor.shape == spec.shape


def test_lab_is_colour_for_a_gray_model_too() -> None:
    lab = Image.merge("LAB", [Image.new("L", (24, 16), level) for level in (128, 128, 128)])
    for spec in (RGB, GRAY):
        tensor = prepare(Upload(encoded(lab, "TIFF")), spec, SETTINGS)[0].tensor
        assert np.abs(tensor / 255 - 0.46).max() < 0.04


@pytest.mark.parametrize(("mode", "level"), [("F", 0.5), ("I", 70_000), ("I", 200)])
def test_pixels_of_which_nothing_says_what_is_white_are_a_tensor(mode: str, level: float) -> None:
    data = encoded(Image.new(mode, (16, 16), level), "TIFF")
    with pytest.raises(InvalidInput, match=r"send it as a \.npy tensor"):
        decode_picture(data, 50)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_stands_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(corners(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB").resize((16, 16), 2)
    tensor = prepare(Upload(data), RGB, SETTINGS)[0].tensor
    levels = tensor.transpose(1, 2, 0)
    np.testing.assert_allclose(levels, np.asarray(expected, float), atol=0.01)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_is_upright(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert decode_picture(encoded(corners(), "JPEG", exif=exif), 50).orientation == 1


def test_an_orientation_that_is_a_fraction_or_text_is_harmless() -> None:
    """6/1 equals 6, but is not JSON."""
    for value, kind, expected in ((TiffImagePlugin.IFDRational(6, 1), 5, 6), ("six", 2, 1)):
        ifd = TiffImagePlugin.ImageFileDirectory_v2()
        ifd[ORIENTATION] = value
        ifd.tagtype[ORIENTATION] = kind
        header = b"Exif\x00\x00II*\x00\x08\x00\x00\x00"
        data = encoded(corners(), "JPEG", exif=header + ifd.tobytes(8))
        orientation = decode_picture(data, 50).orientation
        assert (type(orientation), orientation) == (int, expected)
        prepare(Upload(data), RGB, SETTINGS)[0].meta.model_dump_json()


@pytest.mark.parametrize(
    "data", [b"not a picture\n" * 100, b"\x00", b"\xff\xd8", b"%PDF-1.4 ...", b"<svg/>", b"GIF8"]
)
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        decode_picture(data, 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_half_a_picture_is_corrupt(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises((CorruptImage, UnreadableImage)) as caught:
        decode_picture(data[: len(data) // 2], 50)
    if kind in {"JPEG", "PNG"}:
        assert isinstance(caught.value, CorruptImage)
        assert "send the whole file" in str(caught.value)


def test_sixty_megapixels_are_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("1", (10_000, 6_000)), "PNG")
    assert len(data) < 20_000
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(TooLarge, match=r"60\.0 megapixels, more than 50") as caught:
        prepare(Upload(data), RGB, SETTINGS)
    assert caught.value.extensions == {"limit": 50, "width": 10_000, "height": 6_000}


def test_pillows_own_limit_does_not_come_first() -> None:
    """Ours is a setting, and may be larger."""
    data = encoded(Image.new("1", (15_000, 12_500)), "PNG")
    with pytest.raises(TooLarge, match=r"187\.5 megapixels, more than 180"):
        decode_picture(data, 180)


def test_long_strips() -> None:
    for size in ((65_535, 1), (1, 65_535)):
        data = encoded(Image.new("RGB", size, "red"), "PNG")
        (prepared,) = prepare(Upload(data), RGB, SETTINGS)
        assert max(open_display_copy(prepared.picture).size) <= 65_535
        edge = PictureSpec(height=16, width=16, resize="shortest_edge", resize_to=256)
        with pytest.raises(TooLarge, match="too long and thin"):
            prepare(Upload(data), edge, SETTINGS)


def test_a_large_upload_is_kept_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 900, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    kept = display_copy(data, decode_picture(data, 50), 300)
    assert len(kept) < len(data) / 4
    assert open_display_copy(kept).size == (180, 300)
    small = encoded(corners(), "PNG")
    assert display_copy(small, decode_picture(small, 50), 300) == small


REAL = {kind: make() for kind, (make, _, _) in KINDS.items()}


@settings(max_examples=400)
@given(st.data())
def test_damaged_files_raise_only_our_errors(data: st.DataObject) -> None:
    damaged = bytearray(REAL[data.draw(st.sampled_from(sorted(REAL)))])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(1, len(damaged))) :]
    spec = data.draw(st.sampled_from([RGB, GRAY]))
    try:
        (prepared,) = prepare(Upload(bytes(damaged)), spec, SETTINGS)
    except RequestError:
        return
    prepared.meta.model_dump_json()
    open_display_copy(prepared.picture)
