"""What `size` means: the grid that a map is brought to, and how large an answer may be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from camserve.errors import InvalidRequest, TooLarge
from camserve.maps.geometry import Geometry
from camserve.maps.grids import Grid, shrunk_to
from camserve.maps.sampler import Sampler
from camserve.settings import Settings

__all__ = [
    "Room",
    "Shape",
    "cells_per_axis",
    "check_stackable",
    "pixels",
    "sampler_for",
    "size_of_map",
]

Shape: TypeAlias = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Room:
    """How large an answer may be, and how many maps share it.

    longest: pixels on a side of a picture; some kinds of files have no more. otherwise: what to
    ask for instead of more.
    """

    megapixels: float
    maps: int = 1
    longest: float = math.inf
    otherwise: str = "a smaller size"

    @classmethod
    def of_arrays(cls, settings: Settings, maps: int = 1) -> Room:
        """Of `.npy`, which is four bytes a number."""
        return cls(settings.max_output_megapixels, maps)

    @classmethod
    def of_lists(cls, settings: Settings, maps: int = 1) -> Room:
        """Of numbers in JSON, which are about ten bytes each, and slow to read."""
        megapixels = min(settings.max_json_megapixels, settings.max_output_megapixels)
        larger = "a smaller size, or for .npy (?as=npy; with a request, output.map=npy_base64)"
        return cls(megapixels, maps, otherwise=larger)

    @property
    def pixels(self) -> float:
        """For each map."""
        return self.megapixels * 1_000_000 / self.maps

    def check(self, height: int, width: int) -> None:
        """Raises TooLarge for maps of that size."""
        if height * width > self.pixels:
            raise self._too_large(f"{self._maps} of {width}x{height} pixels")

    def check_cells(self, size: tuple[int, ...]) -> None:
        """Raises TooLarge for maps of that size, of any number of axes."""
        if math.prod(size) > self.pixels:
            raise self._too_large(f"{self._maps} of {'x'.join(map(str, size))} numbers")

    def check_picture(self, height: int, width: int) -> None:
        """Raises TooLarge if the whole picture, with all that is drawn beside the maps, is."""
        if height * width > self.megapixels * 1_000_000:
            raise self._too_large(f"a picture of {self._maps}, {width}x{height} pixels in all,")
        if max(height, width) > self.longest:
            raise TooLarge(
                f"a picture of {self._maps} would be {width}x{height} pixels, and such a file has "
                f"at most {self.longest:.0f} on a side: ask for a smaller size, or for PNG",
                limit=self.longest,
            )

    def share(self, height: int, width: int) -> float:
        """The factor on both sides at which such a picture fits; 1 if it does."""
        area = math.sqrt(self.megapixels * 1_000_000 / (height * width))
        return min(1.0, area, self.longest / max(height, width))

    @property
    def _maps(self) -> str:
        return "a map" if self.maps == 1 else f"{self.maps} maps"

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(
            f"{what} would be more than {self.megapixels:g} megapixels: ask for {self.otherwise}",
            limit=self.megapixels,
        )


def sampler_for(size: str | None, geometry: Geometry | Grid, room: Room) -> Sampler:
    """The sampler of a map for `size`, which is not `feature`. Raises as `size_of_map` does."""
    wanted = size_of_map(size, geometry, room)
    if isinstance(geometry, Grid):
        return geometry.sampler(wanted)
    height, width = wanted
    return geometry.input_sampler() if size == "input" else geometry.sampler(size=(height, width))


def size_of_map(size: str | None, geometry: Geometry | Grid, room: Room) -> tuple[int, ...]:
    """Cells on each axis of a map for `size`, which is not `feature`, in the client's order.

    Without one they are the original's, or as many as there is room for. Raises TooLarge, or
    InvalidRequest for a size with another number of axes.
    """
    if isinstance(geometry, Grid):
        wanted = geometry.within(room.pixels) if size is None else cells_per_axis(size, geometry)
        room.check_cells(wanted)
        return wanted
    height, width = (
        shrunk_to(geometry.stored, room.pixels) if size is None else pixels(size, geometry)
    )
    room.check(height, width)
    return height, width


def check_stackable(sizes: Iterable[tuple[int, ...]]) -> None:
    """Raises InvalidRequest unless maps of these sizes can be one array."""
    if len(set(sizes)) > 1:
        raise InvalidRequest(
            "the maps differ in shape and cannot be stacked: fetch them one by one, or give a size",
            field="size",
        )


def cells_per_axis(size: str, grid: Grid) -> tuple[int, ...]:
    """What `original`, `input`, cells on the longest axis, or cells on each stand for.

    In the client's order. Raises InvalidRequest for another number of axes.
    """
    if size in ("original", "input"):
        return grid.sent_size
    if "x" not in size:
        return grid.scaled(int(size))
    wanted = tuple(int(side) for side in size.split("x"))
    if len(wanted) != len(grid.size):
        axes = "one axis" if len(grid.size) == 1 else f"{len(grid.size)} axes"
        raise InvalidRequest(
            f"size={size} has {len(wanted)} numbers, and the input has {axes}: it is "
            f"{'x'.join(map(str, grid.sent_size))}",
            field="size",
        )
    return wanted


def pixels(size: str, geometry: Geometry) -> Shape:
    """What `original`, `input`, a long side in pixels, or width x height stand for.

    All but `input` are over the upload's stored pixels. Raises InvalidRequest for three numbers.
    """
    height, width = geometry.stored
    if size == "original":
        return height, width
    if size == "input":
        input_height, input_width = geometry.input_size
        return input_height, input_width
    if size.count("x") == 2:
        raise InvalidRequest(
            f"size={size} has three numbers, and a picture two axes: give width x height",
            field="size",
        )
    if "x" in size:
        asked_width, asked_height = size.split("x")
        return int(asked_height), int(asked_width)
    scale = int(size) / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
