"""From signed maps to pictures: one result, or several side by side. Runs in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from PIL import Image

from app.layouts import sights_of
from app.negotiation import JPEG, PNG, WEBP
from app.presentation import finish, geometry_of
from app.results import Finished
from app.sights import Sight, survey
from app.upsamplings import method_of_picture
from camserve.contracts.options import PictureOptions, Upsampling
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp
from camserve.maps.orientation import upright
from camserve.maps.overlay import overlay
from camserve.maps.scaling import to_unit, unit_ranges
from camserve.maps.sheet import sheet

__all__ = ["draw"]

_ENCODERS: Final = {PNG: encode_png, JPEG: encode_jpeg, WEBP: encode_webp}

Range: TypeAlias = tuple[float, float]


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
    rows = [finished.result.rows[number].input for number in numbers]
    geometries = [geometry_of(finished, number) for number in numbers]
    sights = sights_of(
        geometries, rows, pictures, options, form=form, max_megapixels=max_megapixels
    )
    limits = _shared_range(finished, options) if options.scale == "shared" else None
    drawn = [
        _drawn(finished, number, sight, options, limits)
        for number, sight in zip(numbers, sights, strict=True)
    ]
    if len(drawn) == 1 and form != WEBP:
        return _ENCODERS[form](drawn[0], exif_orientation=sights[0].orientation)
    # a sheet has no single orientation to carry, and browsers do not turn WebP by its EXIF tag
    standing = [upright(one, sight.orientation) for one, sight in zip(drawn, sights, strict=True)]
    return _ENCODERS[form](sheet(standing, rows) if len(standing) > 1 else standing[0])


def _drawn(
    finished: Finished,
    number: int,
    sight: Sight,
    options: PictureOptions,
    limits: Range | None,
) -> Image.Image:
    """One result over its picture, scaled to `limits`, or to its own range."""
    method = method_of_picture(finished.job, options)
    # where only a part of the map is shown, its colours are still those of the whole
    over = survey(geometry_of(finished, number)) if sight.partial else None
    sampled = finish(finished, number, options, method, sight.sampler, over=over).values
    values, mask = sight.lay_out(sampled), sight.mask
    if limits is None and sight.partial:
        limits = _own_range(finished, number, options, method)
    elif limits is None:
        (limits,) = unit_ranges([values], masks=[mask])
    (unit,) = to_unit([values], limits=[limits], masks=[mask])
    return overlay(
        sight.draw(),
        unit,
        mask=mask,
        colormap=options.colormap,
        alpha=options.alpha,
        threshold=options.threshold,
        view=options.view,
        color_bar=options.color_bar,
        color_bar_range=limits,
        orientation=sight.orientation,
        ink=sight.ink,
        panels=sight.panels,
    )


def _shared_range(finished: Finished, options: PictureOptions) -> Range:
    """The range of all maps of the request, whichever of them are drawn, and however large."""
    method = method_of_picture(finished.job, options)
    ranges = [_own_range(finished, number, options, method) for number in range(len(finished.maps))]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _own_range(
    finished: Finished, number: int, options: PictureOptions, method: Upsampling
) -> Range:
    """The range of one map, looked up where that is cheap, and the same for every picture."""
    whole = finish(finished, number, options, method, survey(geometry_of(finished, number)))
    return unit_ranges([whole.values])[0]
