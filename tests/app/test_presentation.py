"""Finished maps and pictures: sizes, conventions, places, and what they may cost."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.documents import Upload
from app.inputs import prepare
from app.negotiation import JPEG, PNG, WEBP
from app.pictures import ORIENTATION
from app.presentation import draw, finish_map
from app.results import Finished
from app.sizes import Room
from camserve.broker import JobRecord, Priority, State
from camserve.contracts.cards import InputSpec
from camserve.contracts.jobs import Job, JobResult, ResultRow
from camserve.contracts.options import MapOptions, PictureOptions
from camserve.contracts.targets import TopTarget
from camserve.errors import InvalidRequest, TooLarge
from camserve.maps.conventions import CONVENTIONS, present
from camserve.settings import Settings

SPEC = InputSpec(height=32, width=32)
ROOM = Room(16)
SIGNED = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def finished(
    *uploads: bytes, maps: list[np.ndarray] | None = None, spec: InputSpec = SPEC, **job: Any
) -> tuple[Finished, dict[int, bytes]]:
    """A done explanation of `uploads`, with as many maps for each as there are."""
    prepared = [prepare(Upload(upload), spec, Settings()) for upload in uploads]
    signed = maps or [SIGNED] * len(uploads)
    per_input = len(signed) // len(uploads)
    rows = tuple(
        ResultRow(input=n // per_input, target=0, class_index=n, score=1)
        for n in range(len(signed))
    )
    result = JobResult(
        model_version="1", feature_layer="f", reduction_layer="r", rows=rows, compute_ms=1,
        batch_size=1, worker="w", device="cpu",
    )  # fmt: skip
    document = Job(
        model="toy",
        model_version="1",
        inputs=tuple(one.meta for one in prepared),
        targets=(TopTarget(top=per_input),),
        **job,
    )
    record = JobRecord(
        id="x", model="toy", state=State.SUCCEEDED, attempts=1, priority=Priority.BULK,
        created_ms=0, started_ms=0, completed_ms=0, deadline_ms=0, cancel_requested=False,
        document=b"", failure=None, owner=None, consumer=None,
    )  # fmt: skip
    pictures = {index: one.picture for index, one in enumerate(prepared)}
    return Finished(record, document, result, tuple(signed)), pictures


def picture(
    done: tuple[Finished, dict[int, bytes]],
    numbers: tuple[int, ...] = (0,),
    form: str = PNG,
    max_megapixels: float = 16,
    **options: Any,
) -> Image.Image:
    data = draw(
        done[0],
        numbers,
        done[1],
        PictureOptions(**options),
        form=form,
        max_megapixels=max_megapixels,
    )
    return Image.open(io.BytesIO(data))


PLAIN = encoded(Image.new("RGB", (60, 40), "gray"))
SIZES = [
    (None, (40, 60)),
    ("original", (40, 60)),
    ("input", (32, 32)),
    ("feature", (4, 4)),
    ("90", (60, 90)),
    ("30", (20, 30)),
    ("640x480", (480, 640)),
    ("1", (1, 1)),
]


@pytest.mark.parametrize(("size", "shape"), SIZES)
def test_sizes(size: str | None, shape: tuple[int, int]) -> None:
    one = finish_map(finished(PLAIN)[0], 0, MapOptions(size=size), ROOM)
    assert one.values.shape == shape
    assert one.values.dtype == np.float32
    assert one.values.min() >= 0


@pytest.mark.parametrize("size", ["original", "5000x4000", "99999", "99999x99999", "input"])
def test_a_size_that_is_asked_for_and_too_large_is_413(size: str) -> None:
    with pytest.raises(TooLarge, match="smaller size") as caught:
        finish_map(finished(PLAIN)[0], 0, MapOptions(size=size), Room(0.001))
    assert caught.value.extensions["limit"] == 0.001


def test_the_default_size_is_made_to_fit() -> None:
    one = finish_map(finished(PLAIN)[0], 0, MapOptions(), Room(0.0006))
    assert one.values.shape == (20, 30)
    many = finish_map(finished(PLAIN)[0], 0, MapOptions(), Room(0.0024, maps=4))
    assert many.values.shape == (20, 30)


def test_many_maps_share_the_room() -> None:
    with pytest.raises(TooLarge, match="4 maps of 60x40 pixels would be more than 0.009"):
        finish_map(finished(PLAIN)[0], 0, MapOptions(size="original"), Room(0.009, maps=4))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_convention_is_that_of_the_maps(convention: Any) -> None:
    done, _ = finished(PLAIN, convention=convention)
    asked = finish_map(finished(PLAIN)[0], 0, MapOptions(convention=convention), ROOM)
    inherited = finish_map(done, 0, MapOptions(), ROOM)
    np.testing.assert_array_equal(asked.values, inherited.values)
    assert asked.convention == inherited.convention == convention
    at_feature = finish_map(done, 0, MapOptions(size="feature"), ROOM).values
    np.testing.assert_allclose(at_feature, present([SIGNED], convention), rtol=1e-6)


def test_upsampling() -> None:
    done, _ = finished(PLAIN, upsampling="nearest")
    inherited = finish_map(done, 0, MapOptions(), ROOM).values
    assert len(np.unique(inherited)) <= 16
    none = finish_map(done, 0, MapOptions(upsampling="none"), ROOM)
    assert none.values.shape == (4, 4)
    assert none.mask is None
    # an up-sampling chosen for one convention is not that of another
    other = finish_map(done, 0, MapOptions(convention="paper"), ROOM).values
    assert len(np.unique(other)) > 16
    torchcam = finish_map(done, 0, MapOptions(convention="torchcam"), ROOM).values
    assert torchcam.shape == (4, 4)
    sized = finish_map(done, 0, MapOptions(convention="torchcam", size="original"), ROOM).values
    assert sized.shape == (40, 60)


@pytest.mark.parametrize("view", ["overlay", "heatmap", "side_by_side", "contour"])
@pytest.mark.parametrize(("form", "kind"), [(PNG, "PNG"), (JPEG, "JPEG"), (WEBP, "WEBP")])
def test_every_view_in_every_form(view: Any, form: str, kind: str) -> None:
    drawn = picture(finished(PLAIN), form=form, view=view, upsampling="none", color_bar=True)
    assert drawn.format == kind
    assert drawn.height == 40
    assert drawn.width > 60


def test_options_reach_the_drawing() -> None:
    done = finished(PLAIN, maps=[np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)])
    faint = np.asarray(picture(done, alpha=0.0).convert("RGB"))
    assert (faint == 128).all()
    strong = np.asarray(picture(done, alpha=1.0, colormap="gray", upsampling="nearest"))
    assert (strong[:20, :30] == 255).all()
    assert (strong[20:] == 128).all()
    high = picture(done, view="heatmap", threshold=0.9, upsampling="nearest")
    assert (np.asarray(high.getchannel("A"))[20:] == 0).all()
    assert picture(done, size="input").size == (32, 32)
    assert picture(done, size="30").size == (30, 20)


def test_a_picture_of_the_feature_grid_is_refused_with_a_way() -> None:
    with pytest.raises(InvalidRequest, match="size=input&upsampling=nearest"):
        picture(finished(PLAIN), size="feature")


def test_a_picture_larger_than_allowed_is_made_to_fit_or_refused() -> None:
    done = finished(encoded(Image.new("RGB", (600, 400))))
    assert picture(done, max_megapixels=0.06).size == (300, 200)
    with pytest.raises(TooLarge):
        picture(done, max_megapixels=0.06, size="original")


def brightness(drawn: Image.Image) -> float:
    return float(np.asarray(drawn.convert("L"), float).max())


def test_a_shared_scale_is_that_of_all_maps_whichever_are_drawn() -> None:
    cell = np.zeros((2, 2), np.float32)
    weak, strong = cell.copy(), cell.copy()
    weak[0, 0], strong[1, 1] = 1.0, 4.0
    black = encoded(Image.new("RGB", (40, 40)))
    done = finished(black, maps=[weak, strong])
    style: dict[str, Any] = {"view": "heatmap", "colormap": "gray", "upsampling": "nearest"}
    each = [brightness(picture(done, (n,), **style)) for n in (0, 1)]
    assert each == [255, 255]
    shared = [brightness(picture(done, (n,), scale="shared", **style)) for n in (0, 1)]
    assert abs(shared[0] - 255 / 4) < 2
    assert shared[1] == 255
    together = picture(done, (0, 1), scale="shared", **style)
    assert together.width > 80
    assert abs(brightness(together.crop((0, 0, 40, 40))) - shared[0]) < 2


def test_a_sheet_has_a_row_for_each_input() -> None:
    sheet = picture(finished(PLAIN, PLAIN, maps=[SIGNED] * 4), (0, 1, 2, 3))
    assert sheet.size[0] >= 120
    assert sheet.size[1] >= 80
    assert sheet.size[0] < 200


def test_a_sheet_of_everything_stays_within_its_room() -> None:
    """32 inputs x 16 targets, each a megapixel, would be gigabytes."""
    uploads = [encoded(Image.new("RGB", (1000, 1000)))] * 2
    done = finished(*uploads, maps=[SIGNED] * 64)
    tracemalloc.start()
    try:
        sheet = picture(done, tuple(range(64)), max_megapixels=1, scale="shared")
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert sheet.width * sheet.height < 3e6
    with pytest.raises(TooLarge, match="64 maps"):
        picture(done, tuple(range(64)), max_megapixels=1, size="original")


GEOMETRIES = {
    "stretch": InputSpec(height=64, width=64),
    "shortest edge": InputSpec(height=64, width=64, resize="shortest_edge", resize_to=72),
    "letterbox": InputSpec(height=64, width=64, resize="letterbox"),
    "stretch and crop": InputSpec(height=56, width=56, resize_to=(64, 64)),
}
SQUARE = (70, 50, 90, 70)  # left, top, right, bottom, in the upright picture of 150 x 110


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_planted_in_a_turned_upload_is_found_in_its_place(
    geometry: str, orientation: int
) -> None:
    """A model that looks for brightness: its map, finished, is on the square that was planted."""
    spec = GEOMETRIES[geometry]
    upright = Image.new("RGB", (150, 110), "black")
    upright.paste((255, 255, 255), SQUARE)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # to stored: Image.Transpose by number
    stored = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    upload = encoded(stored, "JPEG", exif=exif, quality=95)
    assert (
        np.abs(
            np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(upload))), float)
            - np.asarray(upright, float)
        ).mean()
        < 5
    )

    tensor = prepare(Upload(upload), spec, Settings()).tensor
    side = spec.height // 8
    cells = tensor.mean(0).reshape(side, 8, side, 8).mean((1, 3))
    done = finished(upload, maps=[cells], spec=spec)
    one = finish_map(done[0], 0, MapOptions(upsampling="linear"), ROOM)
    assert one.values.shape == (stored.height, stored.width)
    found = Image.fromarray(one.values)
    found.getexif()[ORIENTATION] = orientation
    seen = np.asarray(ImageOps.exif_transpose(found), float)
    rows, columns = np.mgrid[0:110, 0:150] + 0.5
    centre = ((seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum())
    assert abs(centre[0] - 80) < 3
    assert abs(centre[1] - 60) < 3

    drawn = picture(done, view="heatmap", colormap="gray", upsampling="linear")
    shown = np.asarray(ImageOps.exif_transpose(drawn).convert("LA"), float)
    assert shown.shape == (110, 150, 2)
    peak = np.unravel_index((shown[..., 0] * (shown[..., 1] > 0)).argmax(), (110, 150))
    assert SQUARE[1] - 4 <= peak[0] <= SQUARE[3] + 4
    assert SQUARE[0] - 4 <= peak[1] <= SQUARE[2] + 4


def test_what_the_model_did_not_see_has_no_colour() -> None:
    spec = GEOMETRIES["shortest edge"]
    wide = encoded(Image.new("RGB", (200, 50)))
    done = finished(wide, maps=[np.ones((4, 4), np.float32)], spec=spec)
    values = finish_map(done[0], 0, MapOptions(), ROOM).values
    assert (values[:, :70] == 0).all()
    assert (values[:, 80:120] > 0).all()
    alpha = np.asarray(picture(done, view="heatmap").getchannel("A"))
    assert (alpha[:, :70] == 0).all()


def test_maps_that_are_not_finite_are_still_shown() -> None:
    broken = SIGNED.copy()
    broken[0, 0] = np.nan
    done = finished(PLAIN, maps=[broken, np.full((4, 4), np.nan, np.float32)])
    for options in ({}, {"scale": "shared"}, {"upsampling": "nearest"}):
        assert picture(done, (0, 1), **options).width > 100
