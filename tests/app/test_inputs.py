"""The model's input: what its own library would have made of the same upload."""

from __future__ import annotations

import importlib
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.documents import Upload
from app.inputs import prepare
from camserve.contracts.input_specs import PictureSpec
from camserve.errors import InvalidInput
from camserve.maps.geometry import Geometry
from camserve.settings import Settings
from workers.levels import network_input

SETTINGS = Settings()
GREY_LEVEL = 1 / 255


def photograph(width: int, height: int) -> Image.Image:
    """Smooth, with noise: what a resize that is not antialiased would show."""
    random = np.random.default_rng(width * 1000 + height)
    coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = random.integers(-40, 40, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def prepared(image: Image.Image, spec: PictureSpec) -> np.ndarray:
    """What the network is given: prepared by a front end, and made ready by a worker."""
    (one,) = prepare(Upload(png(image)), spec, SETTINGS)
    assert one.tensor.dtype == np.uint8
    return network_input(torch.tensor(one.tensor), spec).numpy()


PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("vit", {}),
    ("convnext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    ("convnext", {"size": {"shortest_edge": 384}}),
    ("deit", {}),
    ("clip", {}),
    ("bit", {}),
    ("vit", {"size": {"height": 96, "width": 128}, "do_normalize": False}),
    ("clip", {"size": {"shortest_edge": 100}, "crop_size": {"height": 120, "width": 90}}),
]
SIZES = [(500, 333), (333, 501), (224, 224), (97, 640), (31, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"), PROCESSORS, ids=[p[0] + str(len(str(p[1]))) for p in PROCESSORS]
)
def test_the_input_is_that_of_transformers(
    name: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    transformers = pytest.importorskip("transformers")
    from workers.sources.image_processors import picture_fields

    spelt = {"vit": "ViT", "convnext": "ConvNext", "deit": "DeiT", "clip": "CLIP", "bit": "Bit"}
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    processor = getattr(module, f"{spelt[name]}ImageProcessorPil")(**options)
    assert transformers
    image = photograph(*size)
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    spec = PictureSpec.model_validate(picture_fields(processor, SimpleNamespace(num_channels=3)))
    tensor = prepared(image, spec)
    assert tensor.shape == expected.shape
    # to one grey level, in the model's own units
    std = np.asarray(spec.std, np.float32)[:, None, None]
    assert np.abs((tensor - expected) * std).max() <= GREY_LEVEL * 1.01


def test_channel_order_scale_and_normalisation() -> None:
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    common: dict[str, Any] = {"height": 4, "width": 4, "scale": 1.0}
    assert prepared(image, PictureSpec(**common))[:, 0, 0].tolist() == [10, 20, 30]
    assert prepared(image, PictureSpec(colors="BGR", **common))[:, 0, 0].tolist() == [30, 20, 10]
    gray = prepared(image, PictureSpec(colors="L", **common))
    assert gray.shape == (1, 4, 4)
    assert abs(gray[0, 0, 0] - (0.299 * 10 + 0.587 * 20 + 0.114 * 30)) < 1
    each = PictureSpec(height=4, width=4, mean=(0.0, 0.1, 0.2), std=(1.0, 2.0, 4.0))
    expected = [10 / 255, (20 / 255 - 0.1) / 2, (30 / 255 - 0.2) / 4]
    np.testing.assert_allclose(prepared(image, each)[:, 0, 0], expected, rtol=1e-6)
    bgr = each.model_copy(update={"colors": "BGR"})  # mean and std in the model's order
    expected = [30 / 255, (20 / 255 - 0.1) / 2, (10 / 255 - 0.2) / 4]
    np.testing.assert_allclose(prepared(image, bgr)[:, 0, 0], expected, rtol=1e-6)


def test_channels_last() -> None:
    last = PictureSpec(height=4, width=6, format="BSSC", mean=(0.0, 0.1, 0.2), std=(1.0, 2.0, 4.0))
    first = last.model_copy(update={"format": "BCSS"})
    image = photograph(60, 45)
    assert prepared(image, last).shape == (4, 6, 3)
    np.testing.assert_array_equal(prepared(image, last), prepared(image, first).transpose(1, 2, 0))


def test_letterbox_pads_with_zeros() -> None:
    spec = PictureSpec(height=40, width=40, resize="letterbox", scale=1.0)
    tensor = prepared(Image.new("RGB", (80, 40), "white"), spec)
    assert tensor[:, 10:30].min() == 255
    assert tensor[:, :10].max() == tensor[:, 30:].max() == 0
    framed = spec.model_copy(update={"resize_to": (20, 20)})
    tensor = prepared(Image.new("RGB", (80, 40), "white"), framed)
    assert tensor[:, 15:25, 10:30].min() == 255
    assert tensor.sum() == 3 * 10 * 20 * 255


def test_without_a_resize_the_middle_is_taken_and_the_rest_is_black() -> None:
    spec = PictureSpec(height=4, width=6, resize="none", scale=1.0, colors="L")
    levels = np.arange(96, dtype=np.uint8).reshape(8, 12)
    tensor = prepared(Image.fromarray(levels), spec)
    np.testing.assert_array_equal(tensor[0], levels[2:6, 3:9])
    small = prepared(Image.new("L", (2, 2), 255), spec)
    assert small.sum() == 4 * 255
    assert small[0, 1:3, 2:4].min() == 255


@pytest.mark.parametrize("filter_", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_filter_is_pillows(filter_: Any) -> None:
    image = photograph(60, 45)
    expected = image.resize((20, 20), Image.Resampling[filter_.upper()])
    tensor = prepared(image, PictureSpec(height=20, width=20, filter=filter_, scale=1.0))
    np.testing.assert_array_equal(tensor.transpose(1, 2, 0), np.asarray(expected))


def test_stretch_then_crop() -> None:
    image = photograph(60, 45)
    spec = PictureSpec(height=16, width=12, resize="stretch", resize_to=(20, 24), scale=1.0)
    expected = np.asarray(image.resize((24, 20), Image.Resampling.BILINEAR))[2:18, 6:18]
    np.testing.assert_array_equal(prepared(image, spec).transpose(1, 2, 0), expected)


def test_an_input_spec_that_means_nothing_is_refused() -> None:
    for wrong in (
        {"mean": (0.5, 0.5)},
        {"std": (1.0, 0.0, 1.0)},
        {"scale": 0},
        {"height": 0},
        {"colors": "L", "mean": (0.1, 0.2, 0.3)},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            PictureSpec.model_validate({"height": 4, "width": 4, **wrong})


def test_what_presentation_must_know_travels_as_json() -> None:
    (made,) = prepare(
        Upload(png(photograph(30, 20)), "x.png"), PictureSpec(height=8, width=8), SETTINGS
    )
    geometry = Geometry.from_json(made.meta.model_dump(mode="json")["geometry"])
    assert (geometry.stored, geometry.input_size) == ((20, 30), (8, 8))
    assert (made.meta.name, made.meta.shape) == ("x.png", (3, 8, 8))


def test_a_wrong_tensor_tells_both_shapes() -> None:
    with pytest.raises(InvalidInput, match=r"\[1, 2\]") as caught:
        prepare(Upload(np.array([[0.0, 1.0]])), PictureSpec(height=8, width=8), SETTINGS)
    assert caught.value.extensions == {"shape": [1, 2], "expected": [3, 8, 8]}
