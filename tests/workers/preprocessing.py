"""An input specification in plain Pillow and numpy, apart from the front end's code."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from camserve.contracts.input_specs import PictureSpec
from tests.zoo import ZOO

__all__ = ["apply", "assert_same_to_one_grey_level", "pictures"]


def pictures() -> list[Image.Image]:
    """Two photos of the zoo where there is one, and noise in a size that divides badly."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    photos = sorted((ZOO / "images" / "photos").glob("*.*g"))[:2]
    return [Image.fromarray(noise), *(Image.open(path).convert("RGB") for path in photos)]


def apply(spec: PictureSpec, picture: Image.Image) -> np.ndarray:
    """(C, H, W) float32."""
    width, height = picture.size
    if spec.resize == "shortest_edge":
        edge = spec.resize_to
        assert isinstance(edge, int)
        short = min(width, height)
        size = (edge * width // short, edge * height // short)
    else:
        tall, wide = spec.resize_to if isinstance(spec.resize_to, tuple) else (None, None)
        size = (wide or spec.width, tall or spec.height)
    resized = picture.resize(size, getattr(Image.Resampling, spec.filter.upper()))
    # torchvision rounds half of an odd margin to the even neighbour, transformers down
    halve = (lambda x: round(x / 2)) if spec.crop_rounding == "torchvision" else (lambda x: x // 2)
    left, top = halve(resized.width - spec.width), halve(resized.height - spec.height)
    cropped = resized.crop((left, top, left + spec.width, top + spec.height))
    values = np.asarray(cropped, np.float32).transpose(2, 0, 1)
    if spec.colors == "BGR":
        values = values[::-1]
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
    return (values * spec.scale - mean) / std


def assert_same_to_one_grey_level(fields: dict[str, Any], own: Any) -> None:
    """`own`: the library's transform, of a picture to an array (C, H, W)."""
    spec = PictureSpec.model_validate(fields)
    for picture in pictures():
        expected = np.asarray(own(picture))
        ours = apply(spec, picture)
        assert ours.shape == expected.shape
        grey_level = spec.scale / min(spec.std)
        assert float(np.abs(ours - expected).max()) <= grey_level * 1.01
