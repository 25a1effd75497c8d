"""The canvas of an array, by its number of dimensions."""

from __future__ import annotations

from typing import Final

from camserve.maps.canvas import Canvas
from camserve.maps.grids import Grid
from camserve.maps.planes import Raster, raster, slices, slices_of_size
from camserve.maps.sketches import Sketch, raster_axes
from camserve.maps.timelines import timeline

__all__ = ["LONG_SIDE_PX", "canvas_of"]

LONG_SIDE_PX: Final = 800
"""Of a drawing, where nobody says."""


def canvas_of(grid: Grid, sketch: Sketch, size: int | tuple[int, ...] = LONG_SIDE_PX) -> Canvas:
    """The canvas on which the sketch of an array of that grid is drawn.

    Sequences are curves, two dimensions are drawn as they are, more as slices.
    size: of the drawing's long side in pixels; or of each axis, in the client's order: of a
    sequence its steps, of two dimensions rows and columns, of more so many slices of such a size.
    """
    axes = len(grid.size)
    if axes == 1:
        return timeline(grid, sketch, size if isinstance(size, int) else size[0])
    if isinstance(size, int):
        return raster(grid, sketch, size) if axes == 2 else slices(grid, sketch, size)
    if axes > 2:
        return slices_of_size(grid, sketch, size)
    down, right = (size[grid.order.index(axis)] for axis in raster_axes(grid))
    return Raster(grid, sketch, (down, right))
