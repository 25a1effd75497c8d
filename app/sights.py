"""What maps are drawn over: the photograph, or an array as its canvas draws it."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.pictures import open_display_copy
from app.sizes import Shape, cells_per_axis, pixels
from camserve.maps.canvas import Canvas
from camserve.maps.canvases import LONG_SIDE_PX, canvas_of
from camserve.maps.geometry import Geometry
from camserve.maps.grids import Grid
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import Sampler

__all__ = ["Copy", "Photograph", "Sight", "open_copy", "sight_of", "survey"]

_SURVEYED: Final = 1_000_000

Copy: TypeAlias = "Image.Image | NDArray[np.uint8 | np.uint16]"
"""What is kept of an upload: a small copy of a picture, or the sketch of an array."""


@dataclass(frozen=True)
class Photograph:
    """A picture at `size` (height, width): the upload, or with `seen` what the model saw of it.

    It has the members of a `Canvas`.
    """

    copy: Image.Image
    geometry: Geometry
    size: Shape
    seen: bool = False

    ink = False
    partial = False
    panels = None

    @property
    def orientation(self) -> int:
        return 1 if self.seen else self.geometry.orientation

    def draw(self) -> Image.Image:
        if not self.seen:
            return self.copy
        # the map is registered to what the model saw of the upload
        return replace(self.geometry, stored=(self.copy.height, self.copy.width)).apply(self.copy)

    @cached_property
    def sampler(self) -> Sampler:
        if self.seen:
            return Sampler.whole(self.size)
        return self.geometry.sampler(size=self.size)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Which pixels the model saw; None for all."""
        mask = self.sampler.mask
        return None if mask.all() else mask

    def lay_out(self, values: FloatArray) -> FloatArray:
        return values


Sight: TypeAlias = Photograph | Canvas


def open_copy(data: bytes, geometry: Geometry | Grid) -> Copy:
    """What was kept of an upload, opened."""
    if isinstance(geometry, Grid):
        return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
    return open_display_copy(data)


def sight_of(geometry: Geometry | Grid, copy: Copy, size: str | None, share: float = 1.0) -> Sight:
    """The sight of an upload at `size`, which is not `feature`; at its own, times `share`, if None.

    Raises InvalidRequest for a size with another number of axes.
    """
    if isinstance(geometry, Grid):
        sketch = np.asarray(copy)
        if size is None or size in ("original", "input"):
            return canvas_of(geometry, sketch, max(1, int(LONG_SIDE_PX * share)))
        asked = cells_per_axis(size, geometry)
        return canvas_of(geometry, sketch, asked if "x" in size else int(size))
    picture = copy if isinstance(copy, Image.Image) else Image.fromarray(copy)
    if size == "input":
        return Photograph(picture, geometry, geometry.input_size, seen=True)
    if size is not None:
        return Photograph(picture, geometry, pixels(size, geometry))
    height, width = (max(1, int(side * share)) for side in (picture.height, picture.width))
    return Photograph(picture, geometry, (height, width))


def survey(geometry: Geometry | Grid) -> Sampler:
    """The grid on which the range of a whole map is looked up: what the model saw, or as much of
    its resolution as is cheap."""
    if isinstance(geometry, Grid):
        return geometry.sampler(geometry.within(_SURVEYED))
    return geometry.input_sampler()
