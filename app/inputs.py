"""From an upload to the model's input: decode, check, resize, normalise. Runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.documents import Upload
from app.pictures import decode_picture, display_copy
from app.tensors import read_tensor
from camserve.contracts.cards import InputSpec
from camserve.contracts.jobs import JobInput
from camserve.maps.encode import encode_png
from camserve.maps.geometry import plan
from camserve.settings import Settings

__all__ = ["PreparedInput", "prepare"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class PreparedInput:
    """tensor: (C, H, W) float32, ready for the model. picture: what overlays are drawn on."""

    tensor: NDArray[np.float32]
    meta: JobInput
    picture: bytes


def prepare(upload: Upload, spec: InputSpec, settings: Settings) -> PreparedInput:
    """Make an upload ready for a model with input `spec`.

    Raises UnreadableImage, CorruptImage, TooLarge or InvalidInput.
    """
    if isinstance(upload.data, list) or upload.is_npy:
        return _prepare_tensor(upload.data, upload.name, spec)
    image, orientation = decode_picture(upload.data, settings.max_megapixels)
    geometry = plan(
        (image.height, image.width),
        orientation,
        mode=spec.resize,
        resize=spec.resize_to,
        crop=(spec.height, spec.width),
        input_size=(spec.height, spec.width),
    )
    colors = image.convert("L" if spec.colors == "L" else "RGB")
    model_input = geometry.apply(colors, _FILTERS[spec.filter])
    return PreparedInput(
        tensor=_normalised(model_input, spec),
        meta=JobInput(name=upload.name, shape=spec.shape, geometry=geometry.to_json()),
        picture=display_copy(upload.data, image, settings.picture_px),
    )


def _normalised(image: Image.Image, spec: InputSpec) -> NDArray[np.float32]:
    levels = np.asarray(image, dtype=np.float32)
    channels = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    if spec.colors == "BGR":
        channels = channels[::-1]
    mean, std = _column(spec.mean), _column(spec.std)
    return np.ascontiguousarray((channels * np.float32(spec.scale) - mean) / std)


def _column(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _prepare_tensor(data: bytes | list[Any], name: str | None, spec: InputSpec) -> PreparedInput:
    tensor = read_tensor(data, spec.shape)
    size = (spec.height, spec.width)
    geometry = plan(size, mode="none", input_size=size)
    meta = JobInput(name=name, shape=spec.shape, geometry=geometry.to_json())
    return PreparedInput(tensor, meta, encode_png(_as_picture(tensor, spec)))


def _as_picture(tensor: NDArray[np.float32], spec: InputSpec) -> Image.Image:
    """A normalised tensor made visible again, for its overlay."""
    with np.errstate(over="ignore"):  # infinitely bright is white
        levels = (tensor * _column(spec.std) + _column(spec.mean)) / np.float32(spec.scale)
    levels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if spec.colors == "BGR":
        levels = levels[::-1]
    image = Image.fromarray(levels[0] if spec.channels == 1 else levels.transpose(1, 2, 0))
    return image.convert("RGB")
