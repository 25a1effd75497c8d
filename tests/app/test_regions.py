"""Regions of an upload on the model's grid, against areas counted point by point."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.regions import FIELD, PositionMask, read_mask, region_on
from camserve.contracts.reductions import Box, Mask, MaskFile, Point
from camserve.errors import (
    CamserveError,
    CorruptImage,
    InvalidInput,
    InvalidRequest,
    TooLarge,
    UnreadableImage,
)
from camserve.maps.geometry import Geometry, plan
from camserve.maps.grids import Grid
from camserve.maps.orientation import upright
from camserve.settings import Settings
from tests.app.arrays import npy
from tests.app.drawing import encoded

ORIENTATIONS = range(1, 9)
STORED = (18, 27)  # rows, columns of the file
MODES: dict[str, dict[str, Any]] = {
    "stretch, smaller": {"mode": "stretch", "input_size": (7, 5)},
    "stretch, larger": {"mode": "stretch", "input_size": (31, 40)},
    "stretch, crop": {"mode": "stretch", "resize": (12, 14), "crop": (7, 9), "input_size": (7, 9)},
    "shortest edge": {"mode": "shortest_edge", "resize": 10, "crop": (8, 8), "input_size": (8, 8)},
    "letterbox": {"mode": "letterbox", "input_size": (10, 10)},
    "none, cropped": {"mode": "none", "crop": (11, 12), "input_size": (11, 12)},
    "none, padded": {"mode": "none", "crop": (30, 31), "input_size": (30, 31)},
}


def shares_by_counting(geometry: Geometry, mask: np.ndarray) -> np.ndarray:
    """Which share of each cell of the model's input lies on true stored pixels.

    By way of the upright picture, as Pillow turns it, and by counting points: as many on each side
    of a cell as there are pixels on that of the picture, so that no pixel's border splits a point.
    """
    standing = np.asarray(upright(Image.fromarray(mask.astype(np.uint8)), geometry.orientation)) > 0
    places = []
    for axis in (0, 1):
        cells, fine = geometry.input_size[axis], standing.shape[axis]
        points = (np.arange(cells * fine) + 0.5) / fine + geometry.offset[axis]
        places.append(np.floor(points * fine / geometry.resized[axis]).astype(int))
    seen = np.zeros((len(places[0]), len(places[1])), dtype=bool)
    rows, columns = (
        (one >= 0) & (one < side) for one, side in zip(places, standing.shape, strict=True)
    )
    seen[np.ix_(rows, columns)] = standing[np.ix_(places[0][rows], places[1][columns])]
    height, width = geometry.input_size
    return seen.reshape(height, standing.shape[0], width, standing.shape[1]).mean((1, 3))


def covered_by_counting(geometry: Geometry, mask: np.ndarray) -> np.ndarray:
    shares = shares_by_counting(geometry, mask)
    most = shares.max()
    return shares >= (0.5 if most >= 0.5 else most / 2) - 1e-9


def geometry_of(mode: str, orientation: int) -> Geometry:
    return plan(STORED, orientation, **MODES[mode])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_boxes_cover_what_they_cover(mode: str, orientation: int) -> None:
    geometry = geometry_of(mode, orientation)
    for left, top, right, bottom in (
        (9, 5, 21, 13),
        (0, 0, 27, 18),
        (12, 8, 16, 10),
        (8, 6, 9, 11),
    ):
        mask = np.zeros(STORED, dtype=bool)
        mask[top:bottom, left:right] = True
        expected = covered_by_counting(geometry, mask)
        for region in (Box(box=(left, top, right, bottom)), PositionMask(mask)):
            covered = region_on(geometry, region)
            assert covered.dtype == np.bool_
            assert covered.flags.c_contiguous  # or it would be sent in another order
            np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_masks_cover_what_they_cover(mode: str, orientation: int) -> None:
    geometry = geometry_of(mode, orientation)
    random = np.random.default_rng(orientation)
    rows, columns = np.mgrid[: STORED[0], : STORED[1]]
    masks = [
        random.random(STORED) < 0.5,
        np.hypot(rows - 8, columns - 14) < 7,
        rows * 2 > columns + 3,
        np.ones(STORED, dtype=bool),
    ]
    for mask in masks:
        np.testing.assert_array_equal(
            region_on(geometry, PositionMask(mask)), covered_by_counting(geometry, mask)
        )


def test_a_cell_that_is_half_covered_is_in_and_one_that_is_less_is_not() -> None:
    geometry = plan((10, 10), mode="stretch", input_size=(5, 5))  # 2 x 2 pixels a cell
    for box, cells in (
        ((0, 0, 1, 2), [(0, 0)]),  # a half
        ((0, 0, 1.0001, 1.9999), [(0, 0)]),
        ((0, 0, 3, 2), [(0, 0), (0, 1)]),
        ((0, 0, 2.99, 2), [(0, 0)]),
        ((0, 0, 3, 3), [(0, 0), (0, 1), (1, 0)]),  # and a quarter of the fourth
    ):
        covered = region_on(geometry, Box(box=box))
        assert [tuple(map(int, cell)) for cell in np.argwhere(covered)] == cells, box


def test_of_a_region_that_covers_no_cell_by_half_it_is_the_most_covered_ones() -> None:
    geometry = plan((100, 100), mode="stretch", input_size=(10, 10))  # 10 x 10 pixels a cell
    assert np.argwhere(region_on(geometry, Point(point=(37, 62)))).tolist() == [[6, 3]]
    # a thin line is not broken into its best pieces
    line = np.zeros((100, 100), dtype=bool)
    np.fill_diagonal(line, val=True)
    line[50, 49] = True  # the fifth cell has a little more than the others
    assert np.argwhere(region_on(geometry, PositionMask(line))).tolist() == [
        [n, n] for n in range(10)
    ]
    # where it only grazes a cell, it is not of it
    graze = Box(box=(4, 4, 11, 7))
    assert np.argwhere(region_on(geometry, graze)).tolist() == [[0, 0]]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_point_lies_in_the_cell_whose_map_value_its_pixel_gets(
    mode: str, orientation: int
) -> None:
    """Registration there and back: a map numbers the cells, and each pixel is told its cell."""
    geometry = geometry_of(mode, orientation)
    numbers = np.arange(np.prod(geometry.input_size), dtype=np.float64).reshape(geometry.input_size)
    sampler = geometry.sampler("nearest")
    shown = sampler(numbers)
    for row, column in itertools.product(range(0, STORED[0], 4), range(1, STORED[1], 5)):
        point = Point(point=(column + 0.3, row + 0.9))
        if not sampler.mask[row, column]:
            try:
                covered = region_on(geometry, point)
            except InvalidRequest:
                continue  # none of it was seen
            assert covered.any()
        else:
            cell = np.unravel_index(int(shown[row, column]), geometry.input_size)
            assert region_on(geometry, point)[cell]


ARRAYS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "sequence": ("T", (19,), (0,)),
    "plane": ("SS", (5, 8), (0, 1)),
    "spectrogram, turned": ("ST", (5, 8), (1, 0)),
    "volume": ("SSS", (3, 4, 5), (0, 1, 2)),
    "video, as sent": ("TSS", (3, 4, 5), (0, 1, 2)),
    "video, time last": ("TSS", (3, 4, 5), (1, 2, 0)),
    "video, time between": ("TSS", (3, 4, 5), (1, 0, 2)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_regions_of_arrays_are_in_the_clients_order(name: str) -> None:
    letters, size, order = ARRAYS[name]
    grid = Grid(letters, size, order)
    sent = np.zeros(grid.sent_size, dtype=bool)
    starts = [side // 3 for side in grid.sent_size]
    ends = [start + 2 for start in starts]
    sent[tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))] = True
    axes = "xyz"[: len(size)]
    model_axes = "".join(axes[order.index(axis)] for axis in range(len(size)))
    expected = np.einsum(f"{axes}->{model_axes}", sent)
    for region in (Box(box=(*starts, *ends)), PositionMask(sent)):
        covered = region_on(grid, region)
        np.testing.assert_array_equal(covered, expected)
        assert covered.flags.c_contiguous
    point = np.zeros(grid.sent_size, dtype=bool)
    point[tuple(starts)] = True
    found = region_on(grid, Point(point=tuple(start + 0.5 for start in starts)))
    np.testing.assert_array_equal(found, np.einsum(f"{axes}->{model_axes}", point))


def test_a_box_on_an_array_may_cut_its_cells() -> None:
    grid = Grid("T", (10,), (0,))
    assert np.flatnonzero(region_on(grid, Box(box=(2.5, 4.4)))).tolist() == [2, 3]
    assert np.flatnonzero(region_on(grid, Box(box=(2.6, 4.6)))).tolist() == [3, 4]
    assert np.flatnonzero(region_on(grid, Box(box=(2.2, 2.3)))).tolist() == [2]


PICTURE = plan((40, 48), mode="stretch", input_size=(32, 32))
CROPPED = plan((40, 200), mode="shortest_edge", resize=40, crop=(40, 40), input_size=(40, 40))
SEQUENCE = Grid("T", (19,), (0,))
VOLUME = Grid("SSS", (3, 4, 5), (0, 1, 2))
OUTSIDE: list[tuple[Geometry | Grid, Box | Point | PositionMask, str]] = [
    (PICTURE, Box(box=(0, 0, 49, 40)), "whose axis there goes from 0 to 48.*0 to 49 does not fit"),
    (PICTURE, Box(box=(0, 0, 48, 41)), "from 0 to 40"),
    (PICTURE, Box(box=(9, 9, 9, 20)), "end behind its start: 9 to 9"),
    (PICTURE, Box(box=(30, 9, 20, 20)), "end behind its start: 30 to 20"),
    (PICTURE, Point(point=(48, 0)), "positions on that axis are 0 to 47: 48 is none"),
    (PICTURE, Point(point=(0, 40)), "are 0 to 39"),
    (PICTURE, Box(box=(0, 9)), "a box on this input has 4 numbers, not 2: the input is 40 x 48"),
    (PICTURE, Point(point=(0, 1, 2)), "a point on this input has 2 numbers, not 3"),
    (SEQUENCE, Point(point=(0, 1)), "has 1 number, not 2: the input is 19 positions long"),
    (SEQUENCE, Point(point=(19,)), "0 to 18: 19 is none"),
    (VOLUME, Box(box=(0, 0, 0, 3, 4, 6)), "from 0 to 5"),
    (VOLUME, Box(box=(0, 0, 3, 4)), "has 6 numbers, not 4: the input is 3 x 4 x 5"),
    (CROPPED, Box(box=(0, 0, 79, 40)), "nothing that the model saw"),
    (CROPPED, Point(point=(190, 3)), "nothing that the model saw"),
    (PICTURE, PositionMask(np.zeros((40, 48), bool)), "nothing that the model saw"),
    (PICTURE, PositionMask(np.ones((48, 40), bool)), "mask is 48 x 40, the input 40 x 48"),
    (SEQUENCE, PositionMask(np.ones((19, 1), bool)), "mask is 19 x 1, the input 19 positions long"),
    (VOLUME, PositionMask(np.ones((5, 4, 3), bool)), "mask is 5 x 4 x 3, the input 3 x 4 x 5"),
]  # fmt: skip


@pytest.mark.parametrize(("geometry", "region", "message"), OUTSIDE, ids=lambda one: str(one)[:40])
def test_a_region_that_is_not_on_the_input_is_refused(
    geometry: Geometry | Grid, region: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        region_on(geometry, region)
    assert caught.value.extensions["field"] == FIELD


def test_a_mask_that_was_drawn_on_the_upright_picture_is_told_so() -> None:
    upright_mask = PositionMask(np.ones((48, 40), bool))
    turned = plan((40, 48), 6, mode="stretch", input_size=(32, 32))
    with pytest.raises(
        InvalidRequest, match="EXIF orientation; the mask lies on its stored pixels"
    ):
        region_on(turned, upright_mask)
    with pytest.raises(InvalidRequest) as caught:
        region_on(PICTURE, upright_mask)
    assert "EXIF" not in str(caught.value)


def test_the_outermost_pixels_are_on_the_input() -> None:
    for point, cell in (((0, 0), (0, 0)), ((47, 39), (31, 31)), ((47.9, 0), (0, 31))):
        assert region_on(PICTURE, Point(point=point))[cell]


def mask_of(data: bytes, settings: Settings | None = None) -> np.ndarray:
    mask = Mask(mask=MaskFile(base64=base64.b64encode(data).decode()))
    return read_mask(mask, settings or Settings()).positions


def test_what_is_not_black_counts_whatever_the_kind_of_picture() -> None:
    """Labels of 1 are nearly black, and in 16 bits entirely so to most readers."""
    truth = np.random.default_rng(0).random((9, 14)) < 0.4
    for value in (1, 255):
        gray = Image.fromarray((truth * value).astype(np.uint8))
        colour = Image.merge("RGB", [Image.new("L", gray.size), Image.new("L", gray.size), gray])
        palette = Image.fromarray(truth.astype(np.uint8))
        palette.putpalette([0, 0, 0, 0, 0, value])
        wide = Image.fromarray((truth * value).astype(np.uint16))
        for image, kind in (
            (gray, "PNG"), (gray, "TIFF"), (gray, "BMP"), (gray.convert("1", dither=0), "PNG"),
            (colour, "PNG"), (palette, "PNG"), (palette, "GIF"), (wide, "PNG"), (wide, "TIFF"),
            (Image.fromarray(truth.astype(np.int32)), "TIFF"),
            (Image.fromarray(truth.astype(np.float32)), "TIFF"),
        ):  # fmt: skip
            if image.mode == "1" and value == 1:
                continue  # Pillow's own conversion makes them black
            np.testing.assert_array_equal(
                mask_of(encoded(image, kind)), truth, f"{image.mode} {kind}"
            )
    for dtype in (bool, np.uint8, np.float32, np.int64):
        np.testing.assert_array_equal(mask_of(npy(truth.astype(dtype))), truth)
    for faint in (0.25, -3.0):
        np.testing.assert_array_equal(mask_of(npy(truth * faint)), truth)
        image = Image.fromarray((truth * faint).astype(np.float32))
        np.testing.assert_array_equal(mask_of(encoded(image, "TIFF")), truth)
    exchanged = Image.fromarray((~truth).astype(np.uint8))
    exchanged.putpalette([9, 9, 9, 0, 0, 0])  # what counts is the colour, not its number
    np.testing.assert_array_equal(mask_of(encoded(exchanged)), truth)


def test_what_is_transparent_does_not_count() -> None:
    """A layer of a painting program: white all over, and opaque where it was painted."""
    truth = np.random.default_rng(0).random((9, 14)) < 0.4
    layer = Image.new("RGBA", (14, 9), "white")
    layer.putalpha(Image.fromarray((truth * 255).astype(np.uint8)))
    np.testing.assert_array_equal(mask_of(encoded(layer)), truth)
    gray = Image.merge("LA", [Image.new("L", (14, 9), 200), layer.getchannel("A")])
    np.testing.assert_array_equal(mask_of(encoded(gray)), truth)


def test_a_mask_is_of_the_stored_pixels() -> None:
    """As the picture's own tag turns both, the mask's is not needed, and not heeded."""
    truth = np.zeros((9, 14), dtype=bool)
    truth[2, 3:7] = True
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray((truth * 255).astype(np.uint8)), exif=exif)
    np.testing.assert_array_equal(mask_of(turned), truth)


BAD_MASKS: dict[str, tuple[bytes, type[CamserveError], str]] = {
    "text": (b"not a picture", UnreadableImage, "^not a picture"),
    "cut off": (encoded(Image.effect_noise((300, 300), 90))[:-2000], CorruptImage, "truncated"),
    "bomb": (encoded(Image.new("1", (8000, 8000))), TooLarge, "64.0 megapixels, more than 50"),
    "objects": (npy(np.ones(4, np.float32)).replace(b"<f4", b"|O8"), InvalidInput, "real numbers"),
    "half a file": (npy(np.ones((4, 4)))[:-1], InvalidInput, "announces"),
    "nothing": (b"", InvalidRequest, "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_mask_that_cannot_be_read_is_refused(case: str) -> None:
    data, error, message = BAD_MASKS[case]
    with pytest.raises(error, match=message):
        mask_of(data)


def test_a_mask_that_is_no_base64_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is not base64") as caught:
        read_mask(Mask(mask=MaskFile(base64="@@@@")), Settings())
    assert caught.value.extensions["field"] == "params.region.mask.base64"


def test_a_large_mask_takes_little_room() -> None:
    import tracemalloc

    geometry = plan((4000, 5000), mode="stretch", input_size=(224, 224))
    mask = np.zeros((4000, 5000), dtype=bool)
    mask[1000:2000, 1000:2500] = True
    tracemalloc.start()
    try:
        covered = region_on(geometry, PositionMask(mask))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    expected = region_on(geometry, Box(box=(1000, 1000, 2500, 2000)))
    np.testing.assert_array_equal(covered, expected)
