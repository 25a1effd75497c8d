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
from app.sizes import Room, Shape, fitted, grid, pixels
from camserve.contracts.options import Convention, MapOptions, PictureOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.conventions import find_convention, present
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp
from camserve.maps.geometry import Geometry
from camserve.maps.orientation import upright
from camserve.maps.overlay import largest_size, overlay
from camserve.maps.sampler import Sampler
from camserve.maps.scaling import to_unit, unit_ranges
from camserve.maps.sheet import sheet, sheet_size

__all__ = ["FinishedMap", "check_picture_size", "draw", "finish_map"]

_ENCODERS = {PNG: encode_png, JPEG: encode_jpeg, WEBP: encode_webp}
# of a convention that stays at the feature layer's resolution, where a size is asked for
_ENLARGED: Final = "bicubic"
_VIRTUAL: Final = ("softmax", "sigmoid")

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class FinishedMap:
    """values: (h, w) float32. mask: which of them the model saw; None for all."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    convention: Convention


def finish_map(finished: Finished, number: int, options: MapOptions, room: Room) -> FinishedMap:
    """The array of one result, as its convention, up-sampling and size say.

    Without a size it is the upload's, made to fit into `room`. Raises TooLarge for a size that is
    asked for and does not fit, InvalidRequest for options that contradict each other.
    """
    method = _method_of_array(finished, options)
    stays = method == "none"
    sampler = None if stays else grid(options.size, _geometry(finished, number), room)
    return _finish(finished, number, options, method, sampler)


def check_picture_size(size: str | None, *, field: str) -> None:
    """Raises InvalidRequest for the one size that no picture has."""
    if size == "feature":
        raise InvalidRequest(
            "a picture of the feature grid has a pixel a cell: use size=input&upsampling=nearest",
            field=field,
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
    check_picture_size(options.size, field="size")
    copies = {number: open_display_copy(data) for number, data in pictures.items()}
    rows = [finished.result.rows[number].input for number in numbers]
    photographs = [copies[row] for row in rows]
    turns = [_orientation(_geometry(finished, number), options) for number in numbers]

    def whole(shapes: list[Shape]) -> Shape:
        """(height, width) of the picture that maps of these shapes make."""
        width, height = sheet_size(
            [
                largest_size(
                    shape[::-1], view=options.view, color_bar=options.color_bar, orientation=turn
                )
                for shape, turn in zip(shapes, turns, strict=True)
            ],
            rows,
        )
        return height, width

    room = Room(max_megapixels, len(numbers))
    if options.size is None:
        shapes = fitted([(copy.height, copy.width) for copy in photographs], whole, room)
    else:
        shapes = [pixels(options.size, _geometry(finished, number)) for number in numbers]
        room.check_picture(*whole(shapes))
    limits = _shared_range(finished, options) if options.scale == "shared" else None
    drawn = [
        _drawn(finished, number, copy, options, shape=shape, limits=limits)
        for number, copy, shape in zip(numbers, photographs, shapes, strict=True)
    ]
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
    shape: Shape,
    limits: Range | None,
) -> Image.Image:
    """One result over the copy of its upload, scaled to `limits`, or to its own range."""
    geometry = _geometry(finished, number)
    of_input = options.size == "input"
    sampler = geometry.input_sampler() if of_input else geometry.sampler(size=shape)
    finish = _finish(finished, number, options, _method_of_picture(finished, options), sampler)
    values, mask = finish.values, finish.mask
    if limits is None:
        (limits,) = unit_ranges([values], masks=[mask])
    (unit,) = to_unit([values], limits=[limits], masks=[mask])
    picture = copy
    if of_input:  # the map is registered to what the model saw of the upload
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


def _shared_range(finished: Finished, options: PictureOptions) -> Range:
    """The range of all maps of the request, whichever of them are drawn, and however large.

    Looked up on the grid that the model saw: that is cheap, and the same for every picture.
    """
    method = _method_of_picture(finished, options)
    maps = [
        _finish(
            finished, number, options, method, _geometry(finished, number).input_sampler()
        ).values
        for number in range(len(finished.maps))
    ]
    return unit_ranges(maps, shared=True)[0]


def _finish(
    finished: Finished,
    number: int,
    options: MapOptions,
    method: Upsampling,
    sampler: Sampler | None,
) -> FinishedMap:
    """The map on the grid of `sampler`; None stays at the feature layer's resolution."""
    convention = _convention(finished, options)
    values = present([finished.maps[number]], convention, sampler, upsampling=method)
    mask = None if sampler is None or sampler.mask.all() else sampler.mask
    # orjson, for one, takes no transposed views
    return FinishedMap(np.ascontiguousarray(values, dtype=np.float32), mask, convention)


def _convention(finished: Finished, options: MapOptions) -> Convention:
    """The convention that was asked for. Raises InvalidRequest if it needs another score.

    A convention is presentation, but for its score: MATLAB differentiates probabilities, the others
    the model's output, and no presentation makes one map of the other. A reduction layer that the
    request named itself overrules the score of any convention.
    """
    job, computed = finished.job, finished.result.reduction_layer
    asked = options.convention or job.convention
    needed = find_convention(asked).score
    if needed == find_convention(job.convention).score:
        return asked
    if needed == "softmax_if_logits":
        fits = job.reduction_layer is not None or computed in _VIRTUAL
    else:
        fits = job.reduction_layer not in _VIRTUAL
    if fits:
        return asked
    raise InvalidRequest(
        f"this explanation differentiated {computed!r}, and convention={asked} needs another "
        f"score: send the picture again (POST /v1/explanations) with convention={asked}",
        field="convention",
    )


def _asked_method(finished: Finished, options: MapOptions) -> Upsampling | None:
    """The up-sampling that was asked for, now or with the request; None: the convention's own.

    What came with the request was chosen for the request's convention.
    """
    inherited = finished.job.upsampling if options.convention is None else None
    return options.upsampling or inherited


def _own_method(finished: Finished, options: MapOptions) -> Upsampling:
    return find_convention(options.convention or finished.job.convention).upsampling


def _method_of_picture(finished: Finished, options: MapOptions) -> Upsampling:
    """A picture always lies on the photograph's grid: without up-sampling, cells stay cells."""
    asked = _asked_method(finished, options)
    if asked is not None:
        return "nearest" if asked == "none" else asked
    own = _own_method(finished, options)
    return _ENLARGED if own == "none" else own


def _method_of_array(finished: Finished, options: MapOptions) -> Upsampling:
    """`none` stays at the feature layer's resolution. Raises InvalidRequest for contradictions.

    A size that is asked for later beats an up-sampling of `none` that came with the request.
    """
    if options.size == "feature":
        if options.upsampling not in (None, "none"):
            raise InvalidRequest(
                f"size=feature is the map as it is, without upsampling={options.upsampling}: leave "
                "one of them out",
                field="upsampling",
            )
        return "none"
    if options.size is None:
        return _asked_method(finished, options) or _own_method(finished, options)
    if options.upsampling == "none":
        raise InvalidRequest(
            f"upsampling=none keeps the feature layer's resolution, size={options.size} does not: "
            "ask for size=feature, or for another upsampling",
            field="upsampling",
        )
    return _method_of_picture(finished, options)


def _orientation(geometry: Geometry, options: PictureOptions) -> int:
    """EXIF orientation of the drawing: that of the upload, whose pixel grid it has."""
    return 1 if options.size == "input" else geometry.orientation


def _geometry(finished: Finished, number: int) -> Geometry:
    meta = finished.job.inputs[finished.result.rows[number].input]
    if meta.geometry is None:
        raise InvalidRequest("this input has no pixels that a map could be registered to")
    return Geometry.from_json(meta.geometry)
