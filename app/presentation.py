"""From signed maps to what people ask for: finished arrays and pictures. Runs in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.negotiation import JPEG, PNG, WEBP
from app.pictures import open_display_copy
from app.results import Finished
from app.sizes import grid
from camserve.contracts.options import Convention, MapOptions, PictureOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.conventions import find_convention, present
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp
from camserve.maps.geometry import Geometry
from camserve.maps.overlay import overlay
from camserve.maps.scaling import to_unit, unit_ranges
from camserve.maps.sheet import sheet

__all__ = ["FinishedMap", "draw", "finish_map"]

_ENCODERS = {PNG: encode_png, JPEG: encode_jpeg, WEBP: encode_webp}
# for a convention that does not up-sample, where a size is asked for
_ENLARGED: Final = "bicubic"


@dataclass(frozen=True)
class FinishedMap:
    """values: (h, w) float32. mask: which of them the model saw; None for all."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    convention: Convention


def finish_map(
    finished: Finished, number: int, options: MapOptions, max_megapixels: float
) -> FinishedMap:
    """The array of one result, as its convention, up-sampling and size say.

    Raises TooLarge for a size that is asked for and too large; the default size is made to fit.
    """
    job = finished.job
    convention = options.convention or job.convention
    # an up-sampling that came with the request was chosen for the request's convention
    inherited = job.upsampling if options.convention is None else None
    upsampling = options.upsampling or inherited
    if upsampling is None and options.size is not None:
        upsampling = _own_upsampling(convention)
    sampler = grid(options.size, _geometry(finished, number), max_megapixels)
    values = present([finished.maps[number]], convention, sampler, upsampling=upsampling)
    registered = sampler is not None and values.shape == sampler.size
    mask = sampler.mask if sampler is not None and registered else None
    return FinishedMap(
        values.astype(np.float32, copy=False),
        None if mask is None or mask.all() else mask,
        convention,
    )


def draw(
    finished: Finished,
    numbers: Sequence[int],
    pictures: Sequence[bytes],
    options: PictureOptions,
    *,
    form: str,
    max_megapixels: float,
) -> bytes:
    """One encoded picture of one result, or of several side by side.

    numbers: of the results. pictures: the display copy of the input of each.
    Raises TooLarge, InvalidRequest.
    """
    if options.size == "feature":
        raise InvalidRequest(
            "a picture of the feature grid has a pixel a cell: use size=input&upsampling=nearest",
            field="size",
        )
    if options.upsampling == "none":
        options = options.model_copy(update={"upsampling": "nearest"})
    copies = [open_display_copy(picture) for picture in pictures]
    shown = [_Shown(finished, n, copy) for n, copy in zip(numbers, copies, strict=True)]
    maps = [one.finish(options, max_megapixels) for one in shown]
    if options.scale == "shared":
        every = range(len(finished.maps))
        others = [n for n in every if n not in numbers]
        maps += [finish_map(finished, n, options, max_megapixels) for n in others]
    values, masks = [one.values for one in maps], [one.mask for one in maps]
    shared = options.scale == "shared"
    units = to_unit(values, shared=shared, masks=masks)
    limits = unit_ranges(values, shared=shared, masks=masks)
    drawn = [
        overlay(
            one.picture(options),
            unit,
            mask=mask,
            colormap=options.colormap,
            alpha=options.alpha,
            threshold=options.threshold,
            view=options.view,
            color_bar=options.color_bar,
            color_bar_range=limit,
            orientation=one.orientation(options),
        )
        for one, unit, mask, limit in zip(shown, units, masks, limits, strict=False)
    ]
    if len(drawn) == 1:
        return _ENCODERS[form](drawn[0], exif_orientation=shown[0].orientation(options))
    rows = [finished.result.rows[number].input for number in numbers]
    return _ENCODERS[form](sheet(drawn, rows))


@dataclass(frozen=True)
class _Shown:
    """One result with the copy of the upload that it is drawn on."""

    finished: Finished
    number: int
    copy: Image.Image

    @property
    def geometry(self) -> Geometry:
        return _geometry(self.finished, self.number)

    def finish(self, options: PictureOptions, max_megapixels: float) -> FinishedMap:
        size = options.size or f"{self.copy.width}x{self.copy.height}"
        sized = options.model_copy(update={"size": size})
        return finish_map(self.finished, self.number, sized, max_megapixels)

    def picture(self, options: PictureOptions) -> Image.Image:
        """What the map is registered to: the copy of the upload, or what the model saw of it."""
        if options.size != "input":
            return self.copy
        stored = (self.copy.height, self.copy.width)
        return replace(self.geometry, stored=stored).apply(self.copy)

    def orientation(self, options: PictureOptions) -> int:
        """EXIF orientation of the drawing: that of the upload, whose pixel grid it has."""
        return 1 if options.size == "input" else self.geometry.orientation


def _geometry(finished: Finished, number: int) -> Geometry:
    meta = finished.job.inputs[finished.result.rows[number].input]
    if meta.geometry is None:
        raise InvalidRequest("this input has no pixels that a map could be registered to")
    return Geometry.from_json(meta.geometry)


def _own_upsampling(convention: Convention) -> Upsampling:
    own = find_convention(convention).upsampling
    return _ENLARGED if own == "none" else own
