"""From signed maps to what people ask for: finished arrays and pictures. Runs in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.negotiation import JPEG, PNG, WEBP
from app.pictures import open_display_copy
from app.results import Finished
from app.sizes import Room, grid
from camserve.contracts.options import Convention, MapOptions, PictureOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.conventions import find_convention, present
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp
from camserve.maps.geometry import Geometry
from camserve.maps.orientation import upright
from camserve.maps.overlay import overlay
from camserve.maps.scaling import to_unit, unit_ranges
from camserve.maps.sheet import sheet

__all__ = ["FinishedMap", "draw", "finish_map"]

_ENCODERS = {PNG: encode_png, JPEG: encode_jpeg, WEBP: encode_webp}
# for a convention that does not up-sample, where a size is asked for
_ENLARGED: Final = "bicubic"

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class FinishedMap:
    """values: (h, w) float32. mask: which of them the model saw; None for all."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    convention: Convention


def finish_map(
    finished: Finished,
    number: int,
    options: MapOptions,
    room: Room,
    default: tuple[int, int] | None = None,
) -> FinishedMap:
    """The array of one result, as its convention, up-sampling and size say.

    default: (height, width) without a size, else the upload's; made to fit into `room`.
    Raises TooLarge for a size that is asked for and does not fit.
    """
    job = finished.job
    convention = options.convention or job.convention
    # an up-sampling that came with the request was chosen for the request's convention
    inherited = job.upsampling if options.convention is None else None
    upsampling = options.upsampling or inherited
    if upsampling is None and options.size is not None:
        upsampling = _own_upsampling(convention)
    sampler = grid(options.size, _geometry(finished, number), room, default)
    values = present([finished.maps[number]], convention, sampler, upsampling=upsampling)
    registered = sampler is not None and values.shape == sampler.size
    mask = sampler.mask if sampler is not None and registered else None
    return FinishedMap(
        # orjson, for one, takes no transposed views
        np.ascontiguousarray(values, dtype=np.float32),
        None if mask is None or mask.all() else mask,
        convention,
    )


def draw(
    finished: Finished,
    numbers: Sequence[int],
    pictures: Mapping[int, bytes],
    options: PictureOptions,
    *,
    form: str,
    max_megapixels: float,
) -> bytes:
    """One encoded picture of one result, or of several side by side.

    numbers: of the results. pictures: the display copy of each input that they are of.
    Raises TooLarge, InvalidRequest.
    """
    if options.size == "feature":
        raise InvalidRequest(
            "a picture of the feature grid has a pixel a cell: use size=input&upsampling=nearest",
            field="size",
        )
    if options.upsampling == "none":
        options = options.model_copy(update={"upsampling": "nearest"})
    copies = {number: open_display_copy(data) for number, data in pictures.items()}
    rows = [finished.result.rows[number].input for number in numbers]
    room = Room(max_megapixels, len(numbers))
    limits = _shared_range(finished, options, max_megapixels) if options.scale == "shared" else None
    drawn = [
        _drawn(finished, number, copies[row], options, room=room, limits=limits)
        for number, row in zip(numbers, rows, strict=True)
    ]
    turns = [_orientation(_geometry(finished, number), options) for number in numbers]
    if len(drawn) == 1 and form != WEBP:
        return _ENCODERS[form](drawn[0], exif_orientation=turns[0])
    # a sheet has no single orientation to carry, and browsers do not turn WebP by its EXIF tag
    standing = [upright(picture, turn) for picture, turn in zip(drawn, turns, strict=True)]
    return _ENCODERS[form](sheet(standing, rows) if len(standing) > 1 else standing[0])


def _drawn(
    finished: Finished,
    number: int,
    copy: Image.Image,
    options: PictureOptions,
    *,
    room: Room,
    limits: Range | None,
) -> Image.Image:
    """One result over the copy of its upload, scaled to `limits`, or to its own range."""
    geometry = _geometry(finished, number)
    finish = finish_map(finished, number, options, room, (copy.height, copy.width))
    values, mask = finish.values, finish.mask
    if limits is None:
        (unit,) = to_unit([values], masks=[mask])
        (limits,) = unit_ranges([values], masks=[mask])
    else:
        ends = np.array([limits], np.float32)
        unit, _ = to_unit([np.clip(values, *limits), ends], shared=True, masks=[mask, None])
    picture = copy
    if options.size == "input":  # the map is registered to what the model saw of the upload
        picture = replace(geometry, stored=(copy.height, copy.width)).apply(copy)
    return overlay(
        picture,
        unit,
        mask=mask,
        colormap=options.colormap,
        alpha=options.alpha,
        threshold=options.threshold,
        view=options.view,
        color_bar=options.color_bar,
        color_bar_range=limits,
        orientation=_orientation(geometry, options),
    )


def _shared_range(finished: Finished, options: PictureOptions, max_megapixels: float) -> Range:
    """The range of all maps of the request, whichever of them are drawn, and however large.

    Looked up on the grid that the model saw: that is cheap, and the same for every picture.
    """
    same = MapOptions(convention=options.convention, upsampling=options.upsampling, size="input")
    maps = [
        finish_map(finished, number, same, Room(max_megapixels)).values
        for number in range(len(finished.maps))
    ]
    return unit_ranges(maps, shared=True)[0]


def _orientation(geometry: Geometry, options: PictureOptions) -> int:
    """EXIF orientation of the drawing: that of the upload, whose pixel grid it has."""
    return 1 if options.size == "input" else geometry.orientation


def _geometry(finished: Finished, number: int) -> Geometry:
    meta = finished.job.inputs[finished.result.rows[number].input]
    if meta.geometry is None:
        raise InvalidRequest("this input has no pixels that a map could be registered to")
    return Geometry.from_json(meta.geometry)


def _own_upsampling(convention: Convention) -> Upsampling:
    own = find_convention(convention).upsampling
    return _ENLARGED if own == "none" else own
