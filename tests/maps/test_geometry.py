"""Geometry: a planted square comes back to its place, whatever happened to the upload."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from camserve.errors import InvalidInput, InvalidRequest, MalformedRequest, TooLarge
from camserve.maps.geometry import MAX_RESIZED_PIXELS, Geometry, plan
from camserve.maps.orientation import as_stored, upright
from camserve.maps.resample import resample
from camserve.maps.sampler import AxisSpan, Sampler

ORIENTATIONS = range(1, 9)
MODES = {
    "stretch": {"mode": "stretch", "resize": 96, "input_size": (96, 96)},
    "stretch to an oblong": {"mode": "stretch", "resize": (64, 128), "input_size": (64, 128)},
    "stretch and crop": {"mode": "stretch", "resize": 112, "crop": (96, 96)},
    "shortest edge and crop": {
        "mode": "shortest_edge",
        "resize": 110,
        "crop": (96, 96),
        "input_size": (96, 96),
    },
    "shortest edge, crop and padding": {
        "mode": "shortest_edge",
        "resize": 80,
        "crop": (96, 96),
        "input_size": (96, 96),
    },
    "shortest edge alone": {"mode": "shortest_edge", "resize": 96},
    "letterbox": {"mode": "letterbox", "input_size": (96, 96)},
    "oblong letterbox": {"mode": "letterbox", "input_size": (64, 128)},
    "none": {"mode": "none"},
    "none and crop": {"mode": "none", "crop": (128, 160)},
}


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    # Smooth enough to look like a photograph, rough enough to show a shift of half a pixel.
    return Image.fromarray(values).resize((width, height), Image.BOX)


def with_square(height: int, width: int, row: float, column: float, half: int) -> Image.Image:
    picture = np.zeros((height, width), dtype=np.uint8)
    r, c = int(row), int(column)
    picture[r - half : r + half, c - half : c + half] = 255
    return Image.fromarray(picture)


def block_average(picture: Image.Image, cells: tuple[int, int]) -> np.ndarray:
    """What a layer of so many cells would hold if it measured brightness."""
    return np.asarray(
        Image.fromarray(np.asarray(picture, dtype=np.float32)).resize(cells[::-1], Image.BOX)
    )


def centroid(array: np.ndarray) -> tuple[float, float]:
    rows, columns = (np.arange(side) + 0.5 for side in array.shape)
    return (
        float((array.sum(axis=1) * rows).sum() / array.sum()),
        float((array.sum(axis=0) * columns).sum() / array.sum()),
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stored", [(180, 260), (260, 180)])
def test_a_planted_square_returns_to_its_place(mode, orientation, stored):
    # Off the centre and unequally so: a flip, a turn or a shift would show.
    row, column = 0.44 * stored[0] // 1, 0.58 * stored[1] // 1
    picture = with_square(*stored, row, column, 14)
    geometry = plan(stored, orientation, **MODES[mode])
    seen = geometry.apply(picture, Image.BILINEAR)
    assert seen.size == geometry.input_size[::-1]
    cells = (geometry.input_size[0] // 8, geometry.input_size[1] // 8)
    features = block_average(seen, cells)
    assert features.max() > 0
    for size in [stored, (stored[0] // 2, stored[1] // 2)]:
        for method in ("linear", "bicubic"):
            back = geometry.sampler(method, size)(features)
            assert back.shape == size
            # One cell in pixels of this grid, along the axis of the larger scale.
            cell = max(
                size[0] / cells[0], size[1] / cells[1], size[0] / cells[1], size[1] / cells[0]
            )
            at = centroid(back)
            assert at[0] == pytest.approx(row * size[0] / stored[0], abs=0.15 * cell)
            assert at[1] == pytest.approx(column * size[1] / stored[1], abs=0.15 * cell)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_the_mask_is_what_the_model_saw(mode, orientation):
    stored = (90, 130)
    geometry = plan(stored, orientation, **{**MODES[mode], **_smaller(mode)})
    sampler = geometry.sampler("linear")
    # The same walk with a white picture: what is white in the input was seen.
    whole = geometry.apply(Image.new("L", stored[::-1], 255), Image.NEAREST)
    share = np.asarray(whole).mean() / 255 * whole.width * whole.height
    scale = geometry.resized[0] * geometry.resized[1] / (stored[0] * stored[1])
    assert sampler.mask.sum() * scale == pytest.approx(share, rel=0.03)
    assert sampler.mask.shape == sampler.size == stored
    ones = sampler(np.ones((5, 6), dtype=np.float32))
    assert np.allclose(ones, sampler.mask, atol=1e-6)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_window_off_the_centre_is_registered_too(orientation):
    # `plan` cuts from the middle; here a crop and a padding that no symmetry hides.
    upright_size = (40, 70)
    stored = upright_size[::-1] if orientation >= 5 else upright_size
    geometry = Geometry(stored, orientation, upright_size, (7, -6), (24, 48))
    seen = np.zeros(upright_size, dtype=bool)
    seen[7:31, :42] = True
    expected = np.asarray(as_stored(Image.fromarray(seen), orientation))
    assert np.array_equal(geometry.sampler().mask, expected)
    features = np.random.default_rng(4).random((24, 48)).astype(np.float32)
    shown = np.zeros(upright_size, dtype=np.float32)
    shown[7:31, :42] = features[:, 6:]
    expected = np.asarray(as_stored(Image.fromarray(shown), orientation))
    # A cell is a pixel here, so that nothing is interpolated.
    for method in ("nearest", "linear", "bicubic"):
        assert np.allclose(geometry.sampler(method)(features), expected, atol=1e-6)


def test_a_centre_on_the_border_belongs_to_the_half_open_interval():
    # Two cells with centres at 0 and at 1: the first is on the map, the second is past it.
    span = AxisSpan(2, start=-0.5, extent=2.0)
    assert span.window == slice(0, 1)
    assert replace(span, reverse=True).window == slice(1, 2)


def _smaller(mode: str) -> dict[str, object]:
    return {"crop": (60, 70)} if mode == "none and crop" else {}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_registration_is_the_unturned_one_turned_back(orientation):
    upright_size = (60, 100)
    turned = orientation >= 5
    stored = upright_size[::-1] if turned else upright_size
    steps = {"mode": "shortest_edge", "resize": 40, "crop": (32, 32), "input_size": (32, 32)}
    features = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    straight = plan(upright_size, 1, **steps).sampler("bicubic")(features)
    back = plan(stored, orientation, **steps).sampler("bicubic")(features)
    expected = np.asarray(as_stored(Image.fromarray(straight), orientation))
    assert np.allclose(back, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["nearest", "linear", "bicubic"])
def test_the_identity_is_a_plain_resample(method):
    features = np.random.default_rng(2).standard_normal((3, 7, 5)).astype(np.float32)
    sampler = plan((70, 45), mode="none").sampler(method)
    assert np.allclose(sampler(features), resample(features, (70, 45), method), atol=1e-6)
    assert sampler.mask.all()
    assert np.allclose(
        plan((50, 50), mode="stretch", resize=32).input_sampler(method)(features),
        resample(features, (32, 32), method),
        atol=1e-6,
    )


@pytest.mark.parametrize("method", ["linear", "bicubic"])
def test_one_resampling_agrees_with_two_up_to_their_blur(method):
    # Reference: features to the model's input, padded out to the resized picture, then to pixels.
    geometry = plan((300, 451), mode="shortest_edge", resize=64, crop=(56, 56))
    features = np.random.default_rng(3).random((7, 7)).astype(np.float32)
    at_input = resample(features, (56, 56), method)
    on_resized = np.zeros(geometry.resized, dtype=np.float32)
    top, left = geometry.offset
    on_resized[top : top + 56, left : left + 56] = at_input
    twice = resample(on_resized, (300, 451), "linear")
    once = geometry.sampler(method)(features)
    rows, columns = geometry.sampler().window
    inner = (slice(rows.start + 8, rows.stop - 8), slice(columns.start + 8, columns.stop - 8))
    difference = np.abs(once[inner] - twice[inner])
    # The second step rounds off the kinks of the first; half a cell's shift would give 0.3.
    assert difference.max() < 0.08
    assert difference.mean() < 0.01


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations_are_exifs_as_pillow_reads_them(orientation):
    picture = noise(13, 21)
    picture.getexif()[0x0112] = orientation
    standing = upright(picture, orientation)
    assert np.array_equal(standing, ImageOps.exif_transpose(picture))
    assert np.array_equal(as_stored(standing, orientation), picture)


def _processor(name: str, **settings):
    transformers = pytest.importorskip("transformers")
    import importlib

    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    cls = next(getattr(module, n) for n in module.__all__ if n.endswith("ImageProcessorPil"))
    assert transformers
    return cls(do_rescale=False, do_normalize=False, **settings)


PROCESSORS = [
    ("vit", {"size": {"height": 224, "width": 224}}, {"mode": "stretch", "resize": 224}),
    ("vit", {"size": {"height": 96, "width": 160}}, {"mode": "stretch", "resize": (96, 160)}),
    (
        "convnext",
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"mode": "shortest_edge", "resize": 256, "crop": (224, 224), "input_size": (224, 224)},
    ),
    ("convnext", {"size": {"shortest_edge": 384}}, {"mode": "stretch", "resize": 384}),
    (
        "clip",
        {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
        {"mode": "shortest_edge", "input_size": (224, 224)},
    ),
    (
        "clip",  # a crop larger than the picture on one side or on both
        {"size": {"shortest_edge": 100}, "crop_size": {"height": 171, "width": 140}},
        {"mode": "shortest_edge", "resize": 100, "crop": (171, 140), "input_size": (171, 140)},
    ),
    (
        "clip",
        {"do_resize": False, "crop_size": {"height": 64, "width": 331}},
        {"mode": "none", "crop": (64, 331)},
    ),
]
FILTERS = {"vit": Image.BILINEAR, "convnext": Image.BICUBIC, "clip": Image.BICUBIC}


@pytest.mark.parametrize("size", [(301, 451), (453, 300), (97, 131), (224, 224), (37, 256)])
@pytest.mark.parametrize(("name", "settings", "steps"), PROCESSORS)
def test_the_models_input_is_that_of_transformers(name, settings, steps, size):
    picture = noise(*size)
    theirs = _processor(name, **settings)(picture)["pixel_values"][0]
    ours = np.asarray(plan(size, **steps).apply(picture, FILTERS[name])).transpose(2, 0, 1)
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("length", "window", "transformers", "torchvision"),
    [
        (256, 224, 16, 16),
        (225, 224, 0, 0),  # half to even: 0.5 -> 0
        (227, 224, 1, 2),  # 1.5 -> 2
        (229, 224, 2, 2),  # 2.5 -> 2
        (231, 224, 3, 4),  # 3.5 -> 4
        (223, 224, -1, 0),
        (221, 224, -2, -1),
        (200, 224, -12, -12),
    ],
)
def test_odd_margins_are_split_as_each_library_does(length, window, transformers, torchvision):
    for rounding, offset in (("transformers", transformers), ("torchvision", torchvision)):
        geometry = plan((length, 224), mode="none", crop=(window, 224), crop_rounding=rounding)
        assert geometry.offset == (offset, 0)


@pytest.mark.parametrize(
    ("stored", "edge", "resized"),
    [((300, 451), 256, (256, 384)), ((451, 300), 256, (384, 256)), ((100, 333), 33, (33, 109))],
)
def test_the_long_side_is_truncated(stored, edge, resized):
    assert plan(stored, mode="shortest_edge", resize=edge).resized == resized


def test_letterbox_fits_and_centres():
    geometry = plan((100, 200), mode="letterbox", input_size=(64, 64))
    assert geometry.resized == (32, 64)
    assert geometry.offset == (-16, 0)
    picture = np.asarray(geometry.apply(Image.new("RGB", (200, 100), "white")))
    assert not picture[:16].any()
    assert not picture[48:].any()
    assert (picture[16:48] == 255).all()
    assert geometry.sampler().mask.all()


@settings(max_examples=60)
@given(
    stored=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    orientation=st.sampled_from(ORIENTATIONS),
    mode=st.sampled_from(["stretch", "shortest_edge", "letterbox"]),
    side=st.integers(1, 64),
    rounding=st.sampled_from(["transformers", "torchvision"]),
)
def test_any_upload_reaches_the_model_and_its_map_comes_back(
    stored, orientation, mode, side, rounding
):
    geometry = plan(
        stored,
        orientation,
        mode=mode,
        input_size=(side, side),
        crop_rounding=rounding,
    )
    assume(geometry.resized[0] * geometry.resized[1] < 1_000_000)
    assert geometry.apply(Image.new("L", stored[::-1])).size == (side, side)
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry
    sampler = geometry.sampler("linear")
    back = sampler(np.ones((3, 3), dtype=np.float32))
    assert np.allclose(back, sampler.mask, atol=1e-5)


def test_a_map_at_feature_resolution_stays():
    features = np.ones((3, 3), dtype=np.float32)
    assert plan((9, 9), mode="none").sampler("none")(features) is features
    with pytest.raises(InvalidRequest, match="no method"):
        plan((9, 9), mode="none").sampler()(features)
    with pytest.raises(InvalidRequest, match="too few axes"):
        Sampler.whole((3, 3, 3), "linear")(features)


def test_palettes_are_filtered_as_colours():
    picture = noise(40, 40).quantize(16)
    geometry = plan((40, 40), mode="stretch", resize=16)
    expected = picture.convert("RGB").resize((16, 16), Image.BICUBIC)
    assert np.array_equal(geometry.apply(picture), expected)


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (InvalidRequest, {"mode": "zoom"}),
        (InvalidRequest, {"mode": "stretch"}),
        (InvalidRequest, {"mode": "shortest_edge", "resize": 0}),
        (InvalidRequest, {"mode": "letterbox", "resize": (0, 4)}),
        (InvalidRequest, {"mode": "stretch", "resize": 8, "input_size": (9, 9)}),
        (InvalidRequest, {"mode": "none", "orientation": 9}),
        (InvalidInput, {"mode": "none", "input_size": (9, 9)}),
        (InvalidInput, {"mode": "none", "stored_size": (0, 9)}),
    ],
)
def test_plans_without_a_meaning_are_refused(error, wrong):
    with pytest.raises(error):
        plan(**{"stored_size": (10, 10), **wrong})


def test_a_thread_of_pixels_is_refused_before_it_fills_the_memory():
    with pytest.raises(TooLarge) as caught:
        plan((1, 50_000_000), mode="shortest_edge", resize=256, crop=(224, 224))
    assert caught.value.extensions["limit"] == MAX_RESIZED_PIXELS


def test_the_wrong_picture_is_refused():
    with pytest.raises(InvalidRequest, match="the picture has"):
        plan((10, 20), mode="none").apply(Image.new("L", (10, 20)))


@pytest.mark.parametrize(
    "change",
    [
        {"stored": [1]},
        {"stored": ["a", 2]},
        {"orientation": None},
        {"resized": 3},
        {"offset": None},
    ],
)
def test_a_damaged_geometry_is_refused(change):
    with pytest.raises(MalformedRequest):
        Geometry.from_json({**plan((9, 9), mode="none").to_json(), **change})


def test_a_window_beside_the_picture_is_refused():
    with pytest.raises(InvalidRequest, match="miss the picture"):
        Geometry((9, 9), 1, (9, 9), (9, 0), (3, 3))
