"""What `size` means: the grid that a map is brought to, and how large an answer may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from camserve.errors import TooLarge
from camserve.maps.geometry import Geometry
from camserve.maps.sampler import Sampler

__all__ = ["Room", "Shape", "fitted", "grid", "pixels"]

Shape: TypeAlias = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Room:
    """How large an answer may be, and how many maps share it."""

    megapixels: float
    maps: int = 1

    @property
    def pixels(self) -> float:
        """For each map."""
        return self.megapixels * 1_000_000 / self.maps

    def check(self, height: int, width: int) -> None:
        """Raises TooLarge for maps of that size."""
        if height * width > self.pixels:
            raise self._too_large(f"{self._maps} of {width}x{height} pixels")

    def check_picture(self, height: int, width: int) -> None:
        """Raises TooLarge if the whole picture, with all that is drawn beside the maps, is."""
        if height * width > self.megapixels * 1_000_000:
            raise self._too_large(f"a picture of {self._maps}, {width}x{height} pixels in all,")

    @property
    def _maps(self) -> str:
        return "a map" if self.maps == 1 else f"{self.maps} maps"

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(
            f"{what} would be more than {self.megapixels:g} megapixels: ask for a smaller size",
            limit=self.megapixels,
        )


def grid(size: str | None, geometry: Geometry, room: Room) -> Sampler:
    """The sampler of an array for `size`, which is not `feature`.

    Without one it is the original, or as much of its resolution as there is room for. Raises
    TooLarge.
    """
    if size is None:
        height, width = geometry.stored
        shape = _scaled(geometry.stored, min(math.sqrt(room.pixels / (height * width)), 1))
    else:
        shape = pixels(size, geometry)
        room.check(*shape)
    return geometry.input_sampler() if size == "input" else geometry.sampler(size=shape)


def pixels(size: str, geometry: Geometry) -> Shape:
    """What `original`, `input`, a long side in pixels, or width x height stand for.

    All but `input` are over the upload's stored pixels.
    """
    height, width = geometry.stored
    if size == "original":
        return height, width
    if size == "input":
        input_height, input_width = geometry.input_size
        return input_height, input_width
    if "x" in size:
        asked_width, asked_height = size.split("x")
        return int(asked_height), int(asked_width)
    scale = int(size) / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def fitted(shapes: list[Shape], whole: Callable[[list[Shape]], Shape], room: Room) -> list[Shape]:
    """`shapes`, all shrunk by one factor until the picture that they make fits.

    whole: (height, width) of that picture. Raises TooLarge if nothing is left to shrink.
    """
    limit, scale, fitting = room.megapixels * 1_000_000, 1.0, shapes
    while (area := math.prod(whole(fitting))) > limit:
        if all(shape == (1, 1) for shape in fitting):
            room.check_picture(*whole(fitting))
        # gaps and bars shrink less than the maps do: at the second time take a little more
        scale *= math.sqrt(limit / area) * (1.0 if fitting is shapes else 0.98)
        fitting = [_scaled(shape, scale) for shape in shapes]
    return fitting


def _scaled(shape: Shape, scale: float) -> Shape:
    return max(int(shape[0] * scale), 1), max(int(shape[1] * scale), 1)
