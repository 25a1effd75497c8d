"""From signed maps to pictures: one result, or several side by side. Runs in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from PIL import Image

from app.negotiation import JPEG, PNG, WEBP
from app.presentation import finish, geometry_of, method_of_picture
from app.results import Finished
from app.sights import Sight, open_copy, sight_of, survey
from app.sizes import Room, Shape
from camserve.contracts.options import PictureOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.encode import encode_jpeg, encode_png, encode_webp
from camserve.maps.orientation import upright
from camserve.maps.overlay import largest_size, overlay
from camserve.maps.scaling import to_unit, unit_ranges
from camserve.maps.sheet import sheet, sheet_size

__all__ = ["check_picture_size", "draw"]

_ENCODERS: Final = {PNG: encode_png, JPEG: encode_jpeg, WEBP: encode_webp}
_LONGEST: Final = {PNG: 100_000, JPEG: 65_000, WEBP: 16_383}  # of what these formats can say

Range: TypeAlias = tuple[float, float]


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
    rows = [finished.result.rows[number].input for number in numbers]
    geometries = [geometry_of(finished, number) for number in numbers]
    opened = {
        row: open_copy(pictures[row], geometry)
        for row, geometry in dict(zip(rows, geometries, strict=True)).items()
    }

    def sights_at(share: float) -> list[Sight]:
        return [
            sight_of(geometry, opened[row], options.size, share)
            for geometry, row in zip(geometries, rows, strict=True)
        ]

    room = Room(max_megapixels, len(numbers), longest=_LONGEST[form])
    sights = sights_at(1.0)
    if options.size is None:
        sights = _fitted(sights_at, lambda sights: _whole(sights, rows, options), room)
    else:
        room.check_picture(*_whole(sights, rows, options))
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


def _whole(sights: Sequence[Sight], rows: Sequence[int], options: PictureOptions) -> Shape:
    """(height, width) of the picture that maps over these sights make."""
    sizes = [
        largest_size(
            (sight.size[1], sight.size[0]),
            view=options.view,
            color_bar=options.color_bar,
            orientation=sight.orientation,
        )
        for sight in sights
    ]
    width, height = sheet_size(sizes, rows)
    return height, width


def _fitted(
    sights_at: Callable[[float], list[Sight]],
    whole: Callable[[Sequence[Sight]], Shape],
    room: Room,
) -> list[Sight]:
    """The sights, all shrunk by one factor until the picture that they make fits.

    Raises TooLarge if nothing is left to shrink.
    """
    share, fitting = 1.0, sights_at(1.0)
    longest = max(max(sight.size) for sight in fitting)
    while (fits := room.share(*whole(fitting))) < 1.0:
        if share * longest < 1.0:
            room.check_picture(*whole(fitting))
        # gaps, bars and small print shrink less than the maps do: later take a little more
        share *= fits if share == 1.0 else 0.98 * fits
        fitting = sights_at(share)
    return fitting


def _drawn(
    finished: Finished,
    number: int,
    sight: Sight,
    options: PictureOptions,
    limits: Range | None,
) -> Image.Image:
    """One result over its picture, scaled to `limits`, or to its own range."""
    method = method_of_picture(finished, options)
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
    method = method_of_picture(finished, options)
    ranges = [_own_range(finished, number, options, method) for number in range(len(finished.maps))]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _own_range(
    finished: Finished, number: int, options: PictureOptions, method: Upsampling
) -> Range:
    """The range of one map, looked up where that is cheap, and the same for every picture."""
    whole = finish(finished, number, options, method, survey(geometry_of(finished, number)))
    return unit_ranges([whole.values])[0]
