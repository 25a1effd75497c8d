"""Finished maps and pictures: sizes, conventions, places, and what they may cost."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.negotiation import JPEG, PNG, WEBP
from app.presentation import finish_map
from app.sizes import Room
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.options import ArrayOptions
from camserve.errors import InvalidRequest, TooLarge
from camserve.maps.conventions import CONVENTIONS, present
from tests.app.drawing import SIGNED, encoded, finished, picture

ROOM = Room(16)


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
    one = finish_map(finished(PLAIN)[0], 0, ArrayOptions(size=size), ROOM)
    assert one.values.shape == shape
    assert one.values.dtype == np.float32
    assert one.values.min() >= 0


@pytest.mark.parametrize("size", ["original", "5000x4000", "99999", "99999x99999", "input"])
def test_a_size_that_is_asked_for_and_too_large_is_413(size: str) -> None:
    with pytest.raises(TooLarge, match="smaller size") as caught:
        finish_map(finished(PLAIN)[0], 0, ArrayOptions(size=size), Room(0.001))
    assert caught.value.extensions["limit"] == 0.001


def test_the_default_size_is_made_to_fit() -> None:
    one = finish_map(finished(PLAIN)[0], 0, ArrayOptions(), Room(0.0006))
    assert one.values.shape == (20, 30)
    many = finish_map(finished(PLAIN)[0], 0, ArrayOptions(), Room(0.0024, maps=4))
    assert many.values.shape == (20, 30)


def test_many_maps_share_the_room() -> None:
    with pytest.raises(TooLarge, match=r"4 maps of 60x40 pixels would be more than 0\.009"):
        finish_map(finished(PLAIN)[0], 0, ArrayOptions(size="original"), Room(0.009, maps=4))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_convention_is_that_of_the_maps(convention: Any) -> None:
    done, _ = finished(PLAIN, convention=convention)
    layer = "softmax" if convention == "matlab" else None
    plain, _ = finished(PLAIN, reduction_layer=layer)
    asked = finish_map(plain, 0, ArrayOptions(convention=convention), ROOM)
    inherited = finish_map(done, 0, ArrayOptions(), ROOM)
    np.testing.assert_array_equal(asked.values, inherited.values)
    assert asked.convention == inherited.convention == convention
    at_feature = finish_map(done, 0, ArrayOptions(size="feature"), ROOM).values
    np.testing.assert_allclose(at_feature, present([SIGNED], convention), rtol=1e-6)


def test_upsampling() -> None:
    done, _ = finished(PLAIN, upsampling="nearest")
    inherited = finish_map(done, 0, ArrayOptions(), ROOM).values
    assert len(np.unique(inherited)) <= 16
    none = finish_map(done, 0, ArrayOptions(upsampling="none"), ROOM)
    assert none.values.shape == (4, 4)
    # an up-sampling chosen for one convention is not that of another
    other = finish_map(done, 0, ArrayOptions(convention="paper"), ROOM).values
    assert len(np.unique(other)) > 16
    torchcam = finish_map(done, 0, ArrayOptions(convention="torchcam"), ROOM).values
    assert torchcam.shape == (4, 4)
    sized = finish_map(done, 0, ArrayOptions(convention="torchcam", size="original"), ROOM).values
    assert sized.shape == (40, 60)
    assert sized.max() <= 1


def test_a_size_and_an_upsampling_that_contradict_each_other_are_refused_with_a_way() -> None:
    done, _ = finished(PLAIN, upsampling="nearest")
    for size in ("original", "input", "30", "640x480"):
        with pytest.raises(InvalidRequest, match="size=feature") as caught:
            finish_map(done, 0, ArrayOptions(upsampling="none", size=size), ROOM)
        assert caught.value.extensions["field"] == "upsampling"
    for method in ("nearest", "linear", "bicubic"):
        asked: Any = {"upsampling": method, "size": "feature"}
        with pytest.raises(InvalidRequest, match=f"without upsampling={method}"):
            finish_map(done, 0, ArrayOptions(**asked), ROOM)
    at_feature = ArrayOptions(upsampling="none", size="feature")
    assert finish_map(done, 0, at_feature, ROOM).values.shape == (4, 4)


def test_a_size_that_is_asked_for_later_beats_the_requests_upsampling() -> None:
    none, _ = finished(PLAIN, upsampling="none")
    assert finish_map(none, 0, ArrayOptions(), ROOM).values.shape == (4, 4)
    cells = finish_map(none, 0, ArrayOptions(size="original"), ROOM).values
    assert cells.shape == (40, 60)
    assert len(np.unique(cells)) <= 16
    nearest, _ = finished(PLAIN, upsampling="nearest")
    assert finish_map(nearest, 0, ArrayOptions(size="feature"), ROOM).values.shape == (4, 4)


@pytest.mark.parametrize(
    ("made_as", "computed", "asked", "allowed"),
    [
        ({}, "output", "matlab", False),
        ({"convention": "captum"}, "output", "matlab", False),
        ({}, "softmax", "matlab", True),  # of the model's card
        ({"reduction_layer": "softmax"}, None, "matlab", True),
        ({"reduction_layer": "head.fc"}, None, "matlab", True),
        ({"convention": "matlab", "reduction_layer": "softmax"}, None, "camserve", False),
        ({"convention": "matlab", "reduction_layer": "sigmoid"}, None, "paper", False),
        ({"convention": "matlab", "reduction_layer": "softmax"}, None, "matlab", True),
        ({"convention": "matlab", "reduction_layer": "head.fc"}, None, "paper", True),
        ({"convention": "matlab"}, "output", "camserve", True),  # the model gives probabilities
        ({"reduction_layer": "softmax"}, None, "torchcam", True),
    ],
)
def test_a_map_is_not_stamped_with_a_convention_that_differentiates_something_else(
    made_as: dict[str, Any], computed: str | None, asked: Any, *, allowed: bool
) -> None:
    done, pictures = finished(PLAIN, computed=computed, **made_as)
    if allowed:
        one = finish_map(done, 0, ArrayOptions(convention=asked), ROOM)
        assert one.convention == asked
        picture((done, pictures), convention=asked)
        return
    layer = done.result.reduction_layer
    for size in (None, "feature"):
        with pytest.raises(InvalidRequest, match=f"differentiated '{layer}'") as caught:
            finish_map(done, 0, ArrayOptions(convention=asked, size=size), ROOM)
        assert "POST" in str(caught.value)
        assert caught.value.extensions["field"] == "convention"
    with pytest.raises(InvalidRequest, match=f"convention={asked}"):
        picture((done, pictures), convention=asked)


@pytest.mark.parametrize("view", ["overlay", "heatmap", "side_by_side", "contour"])
@pytest.mark.parametrize(("form", "kind"), [(PNG, "PNG"), (JPEG, "JPEG"), (WEBP, "WEBP")])
def test_every_view_in_every_form(view: Any, form: str, kind: str) -> None:
    large = encoded(Image.new("RGB", (120, 80), "gray"))
    drawn = picture(finished(large), form=form, view=view, upsampling="none", color_bar=True)
    assert drawn.format == kind
    assert drawn.height == 80
    assert drawn.width > (240 if view == "side_by_side" else 120)


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


@pytest.mark.parametrize("view", ["overlay", "heatmap", "side_by_side", "contour"])
@pytest.mark.parametrize("color_bar", [False, True])
@pytest.mark.parametrize("many", [1, 6])
def test_the_limit_is_of_the_whole_picture(view: Any, many: int, *, color_bar: bool) -> None:
    """With its neighbour, its colour bar and the gaps of the sheet."""
    style: dict[str, Any] = {"view": view, "color_bar": color_bar}
    uploads = [encoded(Image.new("RGB", size)) for size in ((900, 100), (100, 900))]
    done = finished(*uploads[: min(many, 2)], maps=[SIGNED] * many)
    drawn = picture(done, tuple(range(many)), max_megapixels=0.08, **style)
    assert drawn.width * drawn.height <= 80_000
    assert drawn.width * drawn.height >= 40_000
    whole = picture(done, tuple(range(many)), size="original", max_megapixels=16, **style)
    area = whole.width * whole.height / 1e6
    with pytest.raises(TooLarge, match="smaller size") as caught:
        picture(done, tuple(range(many)), size="original", max_megapixels=area * 0.999, **style)
    assert caught.value.extensions["limit"] == area * 0.999


@pytest.mark.parametrize(("form", "side"), [(WEBP, 16_383), (JPEG, 65_000), (PNG, 100_000)])
def test_a_side_that_a_kind_of_file_does_not_have(form: str, side: int) -> None:
    """libwebp and libjpeg would fail, and it would be our fault."""
    done = finished(encoded(Image.new("RGB", (600, 4))))
    assert picture(done, form=form, size="9000x5").size == (9000, 5)
    if form != PNG:
        with pytest.raises(TooLarge, match="ask for a smaller size, or for PNG") as caught:
            picture(done, form=form, size=f"{side + 1}x5")
        assert caught.value.extensions["limit"] == side
    # and what has no size is made to fit
    row = finished(encoded(Image.new("RGB", (600, 40))), maps=[SIGNED] * 40)
    drawn = picture(row, tuple(range(40)), form=form, max_megapixels=99)
    assert drawn.width <= side
    assert drawn.width > 0.9 * min(side, 40 * 608)


def test_a_limit_that_nothing_fits_is_told() -> None:
    with pytest.raises(TooLarge, match="a picture of 3 maps"):
        picture(
            finished(PLAIN, maps=[SIGNED] * 3), (0, 1, 2), max_megapixels=0.0001, color_bar=True
        )


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


def test_a_shared_range_holds_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger pictures come nearer to a peak than the model's grid, and do not stretch it."""
    from app import drawing

    drawn: list[tuple[np.ndarray, tuple[float, float]]] = []
    real = drawing.overlay

    def watched(copy: Image.Image, unit: np.ndarray, **options: Any) -> Image.Image:
        drawn.append((unit, options["color_bar_range"]))
        return real(copy, unit, **options)

    monkeypatch.setattr(drawing, "overlay", watched)
    done = finished(PLAIN)
    values = finish_map(done[0], 0, ArrayOptions(size="400x400"), ROOM).values
    for size in ("30", "400x400"):
        picture(done, scale="shared", size=size)
    (_, small), (unit, (low, high)) = drawn
    assert small == (low, high)
    assert values.max() > high * 1.001
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_a_sheet_has_a_row_for_each_input() -> None:
    sheet = picture(finished(PLAIN, PLAIN, maps=[SIGNED] * 4), (0, 1, 2, 3))
    assert sheet.size[0] >= 120
    assert sheet.size[1] >= 80
    assert sheet.size[0] < 200


@pytest.mark.parametrize(("form", "size", "tag"), [(PNG, (60, 40), 6), (WEBP, (40, 60), 1)])
def test_a_turned_upload_is_drawn_so_that_browsers_show_it_upright(
    form: str, size: tuple[int, int], tag: int
) -> None:
    """PNG keeps the stored pixels and the tag; WebP, which browsers do not turn, is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = finished(encoded(Image.new("RGB", (60, 40), "gray"), exif=exif))
    drawn = picture(turned, form=form)
    assert drawn.size == size
    assert drawn.getexif().get(0x0112, 1) == tag
    both = finished(encoded(Image.new("RGB", (60, 40), "gray"), exif=exif), maps=[SIGNED] * 2)
    sheet = picture(both, (0, 1), form=form)
    assert sheet.size == (88, 60)  # two upright pictures of 40 x 60, and the gap
    assert 0x0112 not in sheet.getexif()


def test_what_the_model_saw_of_a_turned_upload_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = finished(encoded(Image.new("RGB", (60, 40), "gray"), exif=exif))
    drawn = picture(turned, size="input", view="side_by_side")
    assert drawn.size == (32 + 2 + 32, 32)
    assert drawn.getexif().get(0x0112, 1) == 1


def test_a_picture_of_the_input_is_what_the_model_saw() -> None:
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    spec = PictureSpec(height=32, width=32, resize="shortest_edge")
    drawn = picture(finished(encoded(wide), spec=spec), size="input", alpha=0.0)
    inner = np.asarray(drawn.convert("RGB"))[:, 2:-2]
    assert drawn.size == (32, 32)
    assert (inner[..., 2] > 200).all()
    assert (inner[..., 0] < 50).all()


@pytest.mark.parametrize("style", [{"view": "side_by_side"}, {"color_bar": True}])
def test_neighbour_and_bar_of_a_turned_upload_stand_to_its_right(style: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn = picture(finished(encoded(Image.new("RGB", (400, 200), "gray"), exif=exif)), **style)
    upright = ImageOps.exif_transpose(drawn)
    assert upright.height == 400
    assert upright.width > 230


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
    assert 0.9e6 < sheet.width * sheet.height <= 1e6
    with pytest.raises(TooLarge, match="64 maps"):
        picture(done, tuple(range(64)), max_megapixels=1, size="original")


def test_maps_that_are_not_finite_are_still_shown() -> None:
    broken = SIGNED.copy()
    broken[0, 0] = np.nan
    done = finished(PLAIN, maps=[broken, np.full((4, 4), np.nan, np.float32)])
    for options in ({}, {"scale": "shared"}, {"upsampling": "nearest"}):
        assert picture(done, (0, 1), **options).width > 100
