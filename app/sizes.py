"""What `size` means: the grid that a map is brought to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camserve.errors import TooLarge
from camserve.maps.geometry import Geometry
from camserve.maps.sampler import Sampler

__all__ = ["Room", "grid"]


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
            what = "a map" if self.maps == 1 else f"{self.maps} maps"
            raise TooLarge(
                f"{what} of {width}x{height} pixels would be more than {self.megapixels:g} "
                "megapixels: ask for a smaller size",
                limit=self.megapixels,
            )


def grid(
    size: str | None, geometry: Geometry, room: Room, default: tuple[int, int] | None = None
) -> Sampler | None:
    """The sampler for `size`; None stays at the feature layer's resolution.

    size: `original`, `input`, `feature`, a long side in pixels, or width x height. Without one it
    is `default` (height, width), by default the original, or as much of its resolution as there is
    room for. Raises TooLarge.
    """
    if size == "feature":
        return None
    if size == "input":
        room.check(*geometry.input_size)
        return geometry.input_sampler()
    if size is not None:
        height, width = _pixels(size, geometry)
        room.check(height, width)
    else:
        height, width = default or geometry.stored
        shrink = min(math.sqrt(room.pixels / (height * width)), 1)
        height, width = max(int(height * shrink), 1), max(int(width * shrink), 1)
    return geometry.sampler(size=(height, width))


def _pixels(size: str, geometry: Geometry) -> tuple[int, int]:
    """(height, width) over the upload's stored pixels."""
    height, width = geometry.stored
    if size == "original":
        return height, width
    if "x" in size:
        asked_width, asked_height = size.split("x")
        return int(asked_height), int(asked_width)
    scale = int(size) / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
