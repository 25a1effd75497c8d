"""JPEGs that are reduced while they are decoded: the same input, nearly, and in place."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from app.documents import Upload
from app.inputs import prepare
from app.pictures import ORIENTATION, decode_picture, open_display_copy
from app.reduced_decoding import MARGIN, reduction_of
from camserve.contracts.input_specs import PictureSpec
from camserve.errors import CorruptImage, TooLarge
from camserve.maps.geometry import plan
from camserve.settings import Settings

SIDE = 32
REDUCED = Settings(picture_px=64)
IN_FULL = Settings(picture_px=64, reduced_jpegs=False)
FILTERS = ("bilinear", "hamming", "bicubic", "lanczos")


def scene(width: int, height: int) -> Image.Image:
    """Edges and shades, no symmetry, another colour in each corner."""
    rows, columns = np.mgrid[:height, :width]
    shades = np.stack([rows * 255 / height, columns * 255 / width, 255 - rows * 200 / height], -1)
    picture = Image.fromarray(shades.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.polygon([(width // 9, height // 7), (width // 2, height // 3), (width // 4, height // 2)],
                fill="white")  # fmt: skip
    pen.ellipse((width * 0.6, height * 0.6, width * 0.9, height * 0.95), fill="black")
    return picture.filter(ImageFilter.GaussianBlur(1))  # no lens is sharper


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, options.pop("kind", "JPEG"), quality=92, **options)
    return file.getvalue()


def spec(**members: Any) -> PictureSpec:
    return PictureSpec(height=SIDE, width=SIDE, **members)


def levels(data: bytes, model: PictureSpec, settings: Settings) -> np.ndarray:
    (prepared,) = prepare(Upload(data), model, settings)
    return prepared.tensor.astype(float)


def reduction(data: bytes, model: PictureSpec) -> int:
    def found(stored: tuple[int, int], orientation: int, kind: str | None) -> int:
        geometry = plan(
            stored, orientation, mode=model.resize, resize=model.resize_to,
            crop=(SIDE, SIDE), input_size=(SIDE, SIDE),
        )  # fmt: skip
        return reduction_of(geometry, model.filter, None)

    decoded = decode_picture(data, 50, found)
    height, width = decoded.stored
    by = decoded.reduction
    assert decoded.image.size == (-(-width // by), -(-height // by))
    return by


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize(("times", "expected"), [(2, 2), (4, 4), (8, 8), (20, 8)])
def test_the_input_is_that_of_the_whole_picture(filter_: Any, times: int, expected: int) -> None:
    """Against Pillow, which decodes all of it."""
    # of sizes that no reduction divides
    data = jpeg(scene(SIDE * MARGIN * times + 7, SIDE * MARGIN * times + 3))
    model = spec(filter=filter_)
    assert reduction(data, model) == expected
    method = getattr(Image.Resampling, filter_.upper())
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((SIDE, SIDE), method), float)
    given = levels(data, model, REDUCED).transpose(1, 2, 0)
    assert np.quantile(np.abs(given - whole), 0.99) <= 2.01
    assert np.abs(given - whole).mean() < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("overhang", [1, 5])
def test_it_stays_registered_however_it_is_turned(orientation: int, overhang: int) -> None:
    """A last column that is a fifth picture and the rest padding must not be taken for a whole one:
    the shades would be shifted."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    side = SIDE * MARGIN * 8
    data = jpeg(scene(side + overhang, side + overhang), exif=exif)
    model = spec(filter="bilinear")
    assert reduction(data, model) == 8
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    whole = np.asarray(upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR), float)
    given = levels(data, model, REDUCED).transpose(1, 2, 0)
    assert np.abs(given - whole).mean() < 0.5
    (prepared,) = prepare(Upload(data), model, REDUCED)
    (plain,) = prepare(Upload(data), model, IN_FULL)
    assert prepared.geometry == plain.geometry
    # so is the copy that is drawn on
    copies = [open_display_copy(one.picture) for one in (prepared, plain)]
    assert copies[0].size == copies[1].size
    apart = np.abs(np.subtract(*(np.asarray(copy, float) for copy in copies)))
    assert apart.mean() < 1.5


@pytest.mark.parametrize("resize", ["shortest_edge", "letterbox", "stretch"])
def test_every_way_to_resize(resize: Any) -> None:
    data = jpeg(scene(1101, 700))
    model = spec(resize=resize, resize_to=SIDE + 8 if resize == "shortest_edge" else None)
    assert reduction(data, model) > 1
    apart = np.abs(levels(data, model, REDUCED) - levels(data, model, IN_FULL))
    assert np.quantile(apart, 0.99) <= 2.01
    assert apart.mean() < 0.5


@pytest.mark.parametrize(
    "model",
    [spec(filter="nearest"), spec(filter="box"), spec(resize="none")],
    ids=["nearest", "box", "none"],
)
def test_what_would_see_it_is_not_reduced(model: PictureSpec) -> None:
    side = SIDE if model.resize == "none" else SIDE * 50
    data = jpeg(scene(side, side))
    assert reduction(data, model) == 1
    np.testing.assert_array_equal(levels(data, model, REDUCED), levels(data, model, IN_FULL))


def test_the_margin_is_kept_on_both_sides() -> None:
    least = SIDE * MARGIN * 2
    assert reduction(jpeg(scene(least, least)), spec()) == 2
    assert reduction(jpeg(scene(least, least - 1)), spec()) == 1
    assert reduction(jpeg(scene(least - 1, least)), spec()) == 1
    # one side of a turned picture is the other one of the model
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    wide = PictureSpec(height=8, width=64)
    geometry = plan((640, 100), 6, mode="stretch", input_size=(8, 64))
    assert reduction_of(geometry, wide.filter, None) == 2
    assert (
        reduction_of(plan((100, 640), 6, mode="stretch", input_size=(8, 64)), "bicubic", None) == 1
    )


def test_the_copy_that_is_drawn_on_has_all_its_pixels() -> None:
    """1000 pixels of 4000 are not enough for a copy of 1024, however small the model's input."""
    data = jpeg(scene(4000, 80))
    model = PictureSpec(height=2, width=2)
    (prepared,) = prepare(Upload(data), model, Settings())
    assert open_display_copy(prepared.picture).size == (1024, 20)
    geometry = plan((80, 4000), mode="stretch", input_size=(2, 2))
    assert [reduction_of(geometry, "bicubic", side) for side in (1024, 1000, None)] == [2, 4, 8]


def test_a_prediction_sees_what_an_explanation_sees() -> None:
    data = jpeg(scene(2100, 2000))
    for settings in (REDUCED, Settings()):
        explained, predicted = (
            prepare(Upload(data), spec(), settings, drawn=drawn)[0] for drawn in (True, False)
        )
        np.testing.assert_array_equal(explained.tensor, predicted.tensor)
        assert not predicted.picture


@pytest.mark.parametrize("options", [
    {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2},
    {"kind": "MPO"}, {"restart_marker_rows": 1},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg(mode: str, options: dict[str, Any]) -> None:
    if options.get("kind") == "MPO":
        mode = "RGB"  # Pillow writes no others that it could read
        second = scene(64, 64).convert(mode)
        options |= {"save_all": True, "append_images": [second]}
    data = jpeg(scene(600, 550).convert(mode), **options)
    for model in (spec(), spec(colors="L")):
        assert reduction(data, model) == 4
        apart = np.abs(levels(data, model, REDUCED) - levels(data, model, IN_FULL))
        assert np.quantile(apart, 0.99) <= 3.01  # of CMYK, which is converted after it
    (prepared,) = prepare(Upload(data), spec(), Settings())
    assert open_display_copy(prepared.picture).size == (600, 550)


def test_a_truncated_one_is_corrupt_all_the_same() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    data = jpeg(Image.fromarray(noise))
    for end in (len(data) // 2, len(data) - 4000):
        with pytest.raises(CorruptImage, match="send the whole file"):
            prepare(Upload(data[:end]), spec(), REDUCED)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 20_000), (7, 9), (8, 8)])
def test_threads_of_pixels(size: tuple[int, int]) -> None:
    data = jpeg(Image.new("RGB", size, (10, 200, 30)))
    for side in (1, 2, 16):
        model = PictureSpec(height=side, width=side)
        (prepared,) = prepare(Upload(data), model, REDUCED)
        assert np.abs(prepared.tensor.astype(float) - [[[10]], [[200]], [[30]]]).max() < 4
        assert max(open_display_copy(prepared.picture).size) <= 5000
    edge = PictureSpec(height=16, width=16, resize="shortest_edge", resize_to=4000)
    with pytest.raises(TooLarge, match="too long and thin"):
        prepare(Upload(jpeg(Image.new("RGB", (5000, 1)))), edge, REDUCED)


def test_what_is_too_large_counts_as_it_is_stored() -> None:
    data = jpeg(scene(2000, 1000))
    with pytest.raises(TooLarge, match=r"2\.0 megapixels, more than 1\.9"):
        prepare(Upload(data), spec(), Settings(max_megapixels=1.9))
