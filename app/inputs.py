"""From an upload to what the worker is sent of it: decode, check, resize. Runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.arrangement import Arranged, arranged
from app.arrays import as_finite_float32, check_finite, read_array
from app.documents import Upload
from app.pictures import copy_side, decode_picture, display_copy
from app.reduced_decoding import reduction_of
from camserve.contracts.input_specs import InputSpec, PictureSpec, TensorSpec
from camserve.contracts.jobs import JobInput
from camserve.dimensions import space_and_time
from camserve.errors import InvalidInput, InvalidRequest, UnreadableImage
from camserve.maps.encode import encode_png
from camserve.maps.geometry import Geometry, plan
from camserve.maps.grids import Grid
from camserve.maps.resizing import Size
from camserve.maps.sketches import sketch_of
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
    """tensor: in the model's format without B; uint8, the grey levels of a picture, or float32, the
    numbers of an array, which are ready for the network. geometry: where maps lie. picture: what
    overlays are drawn on, a copy of a picture or the sketch of an array; empty where nothing will
    be drawn."""

    tensor: NDArray[np.uint8] | NDArray[np.float32]
    name: str | None
    geometry: Geometry | Grid
    picture: bytes

    @property
    def meta(self) -> JobInput:
        return JobInput(name=self.name, shape=self.tensor.shape, geometry=self.geometry.to_json())


def prepare(
    upload: Upload,
    spec: InputSpec,
    settings: Settings,
    labels: str | None = None,
    *,
    drawn: bool = True,
) -> list[PreparedInput]:
    """Make an upload ready for a model with input `spec`: one input, or several in a dimension B.

    labels: dimension labels of an array. drawn: whether overlays may be asked for. Raises
    UnreadableImage, CorruptImage, TooLarge, InvalidInput or InvalidRequest.
    """
    if upload.is_pixels and isinstance(spec, PictureSpec):
        return [_from_pixels(upload, spec, settings, upload.format or labels, drawn=drawn)]
    if isinstance(upload.data, bytes) and not upload.is_array:
        if isinstance(spec, TensorSpec):
            raise UnreadableImage(
                f"the model takes arrays of dimensions {spec.labels}, and this is no .npy file: "
                "write one with numpy.save",
                expected=spec.labels,
            )
        return [_from_picture(upload.data, upload.name, spec, settings, drawn=drawn)]
    array = read_array(upload.data) if isinstance(upload.data, bytes) else upload.data
    found = arranged(array, spec, upload.format or labels, settings.max_inputs)
    several = len(found) > 1
    return [
        _from_array(one, spec, _name(upload.name, number if several else None), drawn=drawn)
        for number, one in enumerate(found)
    ]


def _name(name: str | None, number: int | None) -> str | None:
    """Of an input: that of its file, and where it stands in it if it is not alone."""
    return name if name is None or number is None else f"{name}[{number}]"


def _from_picture(
    data: bytes, name: str | None, spec: PictureSpec, settings: Settings, *, drawn: bool
) -> PreparedInput:
    def geometry_of(stored: Size, orientation: int) -> Geometry:
        return plan(
            stored,
            orientation,
            mode=spec.resize,
            resize=spec.resize_to,
            crop=(spec.height, spec.width),
            input_size=(spec.height, spec.width),
            crop_rounding=spec.crop_rounding,
        )

    def reduction(stored: Size, orientation: int, kind: str | None) -> int:
        # drawn or not: a prediction and an explanation see the very same input
        side = copy_side(stored, len(data), kind, settings.picture_px)
        return reduction_of(geometry_of(stored, orientation), spec.filter, side)

    picture = decode_picture(
        data, settings.max_megapixels, reduction if settings.reduced_jpegs else None
    )
    geometry = geometry_of(picture.stored, picture.orientation)
    colors = picture.image.convert("L") if spec.colors == "L" else picture.rgb
    model_input = geometry.apply(colors, _FILTERS[spec.filter], reduction=picture.reduction)
    copy = display_copy(data, picture, settings.picture_px) if drawn else b""
    return PreparedInput(_levels(model_input, spec), name, geometry, copy)


def _from_pixels(
    upload: Upload,
    spec: PictureSpec,
    settings: Settings,
    labels: str | None,
    *,
    drawn: bool,
) -> PreparedInput:
    """As a picture file of these very pixels, which has all that a picture has: limits, resizing,
    a copy for overlays."""
    if labels is not None:
        raise InvalidRequest(
            "format labels numbers that are ready for the model; bytes are taken as pixels, height "
            "x width x channels: leave it out, or send floating-point numbers",
            field="format",
        )
    levels = np.asarray(upload.data)
    if levels.ndim != 3 or levels.shape[2] not in (1, 3, 4):
        raise InvalidInput(
            f"pixels are height x width x channels, with 1, 3 or 4 of the last, and these are "
            f"{list(levels.shape)}: put the channels last, or send floating-point numbers that are "
            "ready for the model",
            shape=list(levels.shape),
        )
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    return _from_picture(encode_png(image), upload.name, spec, settings, drawn=drawn)


def _levels(image: Image.Image, spec: PictureSpec) -> NDArray[np.uint8]:
    """The grey levels in the network's order: a quarter of the bytes that the network takes."""
    levels = np.asarray(image).reshape(image.height, image.width, spec.channels)
    if spec.colors == "BGR":
        levels = levels[..., ::-1]
    return np.ascontiguousarray(levels.transpose(2, 0, 1) if spec.format == "BCSS" else levels)


def _column(values: tuple[float, ...], dimensions: int) -> NDArray[np.float32]:
    """One value a channel, in front of so many dimensions."""
    return np.asarray(values, dtype=np.float32).reshape(-1, *[1] * dimensions)


def _from_array(one: Arranged, spec: InputSpec, name: str | None, *, drawn: bool) -> PreparedInput:
    array = as_finite_float32(one.array)
    labels = spec.format.replace("B", "")
    axis = labels.find("C")
    channels = array[None] if axis < 0 else np.moveaxis(array, axis, 0)
    if isinstance(spec, PictureSpec):  # sent as the network takes it
        size = (spec.height, spec.width)
        geometry = plan(size, mode="none", input_size=size)
        picture = encode_png(_as_picture(channels, spec)) if drawn else b""
        return PreparedInput(array, name, geometry, picture)
    grid = Grid(space_and_time(labels), channels.shape[1:], one.order)
    sketch = encode_png(Image.fromarray(sketch_of(channels, grid))) if drawn else b""
    return PreparedInput(_standardised(array, axis, spec), name, grid, sketch)


def _standardised(array: NDArray[np.float32], axis: int, spec: TensorSpec) -> NDArray[np.float32]:
    """Each channel, along `axis` (-1 for none), less its mean and over its deviation."""
    if not any(spec.mean) and set(spec.std) == {1.0}:
        return array
    behind = array.ndim - 1 - axis if axis >= 0 else 0
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        ready = array - _column(spec.mean, behind)
        ready /= _column(spec.std, behind)
    check_finite(ready)
    return ready


def _as_picture(channels: NDArray[np.float32], spec: PictureSpec) -> Image.Image:
    """A normalised tensor (C, H, W) made visible again, for its overlay."""
    with np.errstate(over="ignore"):  # infinitely bright is white
        levels = (channels * _column(spec.std, 2) + _column(spec.mean, 2)) / np.float32(spec.scale)
    levels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if spec.colors == "BGR":
        levels = levels[::-1]
    image = Image.fromarray(levels[0] if spec.channels == 1 else levels.transpose(1, 2, 0))
    return image.convert("RGB")
