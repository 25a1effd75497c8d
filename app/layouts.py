"""How large each sight of a picture is: as asked for, or so that the whole picture fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from app.negotiation import JPEG, PNG, WEBP
from app.sights import Sight, open_copy, sight_of
from app.sizes import Room, Shape
from camserve.contracts.options import PictureOptions
from camserve.errors import InvalidRequest
from camserve.maps.geometry import Geometry
from camserve.maps.grids import Grid
from camserve.maps.overlay import largest_size
from camserve.maps.sheet import sheet_size

__all__ = ["sights_of"]

_LONGEST: Final = {PNG: 100_000, JPEG: 65_000, WEBP: 16_383}  # of what these formats can say


def sights_of(
    geometries: Sequence[Geometry | Grid],
    rows: Sequence[int],
    pictures: Mapping[int, bytes],
    options: PictureOptions,
    *,
    form: str,
    max_megapixels: float,
) -> list[Sight]:
    """The sight of each map of a picture.

    geometries: of the maps. rows: the input that each is of. pictures: the display copy of each
    input. Raises InvalidRequest for a size that no picture has, TooLarge.
    """
    if options.size == "feature":
        raise InvalidRequest(
            "a picture of the feature grid has a pixel a cell: use size=input&upsampling=nearest",
            field="size",
        )
    opened = {
        row: open_copy(pictures[row], geometry)
        for row, geometry in dict(zip(rows, geometries, strict=True)).items()
    }

    def sights_at(share: float) -> list[Sight]:
        return [
            sight_of(geometry, opened[row], options.size, share)
            for geometry, row in zip(geometries, rows, strict=True)
        ]

    room = Room(max_megapixels, len(rows), longest=_LONGEST[form])
    if options.size is None:
        return _fitted(sights_at, lambda sights: _whole(sights, rows, options), room)
    sights = sights_at(1.0)
    room.check_picture(*_whole(sights, rows, options))
    return sights


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
