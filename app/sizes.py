"""What `size` means: the grid that a map is brought to."""

from __future__ import annotations

import math

from camserve.errors import TooLarge
from camserve.maps.geometry import Geometry
from camserve.maps.sampler import Sampler

__all__ = ["grid"]


def grid(size: str | None, geometry: Geometry, max_megapixels: float) -> Sampler | None:
    """The sampler for `size`; None stays at the feature layer's resolution.

    size: `original`, `input`, `feature`, a long side in pixels, or width x height. Without one it
    is the original, or as much of its resolution as is allowed. Raises TooLarge.
    """
    if size == "feature":
        return None
    if size == "input":
        return geometry.input_sampler()
    height, width = _pixels(size, geometry)
    limit = max_megapixels * 1_000_000
    if height * width > limit:
        if size is not None:
            raise TooLarge(
                f"a map of {width}x{height} pixels is larger than {max_megapixels:g} megapixels: "
                "ask for a smaller size",
                limit=max_megapixels,
            )
        shrink = math.sqrt(limit / (height * width))
        height, width = max(int(height * shrink), 1), max(int(width * shrink), 1)
    return geometry.sampler(size=(height, width))


def _pixels(size: str | None, geometry: Geometry) -> tuple[int, int]:
    """(height, width) over the upload's stored pixels."""
    height, width = geometry.stored
    if size is None or size == "original":
        return height, width
    if "x" in size:
        asked_width, asked_height = size.split("x")
        return int(asked_height), int(asked_width)
    scale = int(size) / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
