"""Arrays of two dimensions, as they are, and of more, as slices on a sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from camserve.maps.canvas import Canvas, Plot, axis_height, cells
from camserve.maps.captions import SMALLEST, draw_text, text_size, text_width
from camserve.maps.contour import Panel
from camserve.maps.cuts import Cuts, cuts_of
from camserve.maps.grids import Grid
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import AxisSpan, Picked, Sampler
from camserve.maps.sketches import Sketch, raster_axes

__all__ = ["Raster", "Slices", "raster", "slices", "slices_of_size"]

_LEAST_RATIO: Final = 1 / 8  # of the sides of a plane: beyond, it would be a thread
_SHEET_RATIO: Final = 1.3  # width to height, where the slices allow it


class Raster(Plot):
    """Gray levels or colours, a cell each."""

    def draw(self) -> Image.Image:
        return self.on_paper(cells(np.asarray(self.sketch, np.uint8), self.plot_size))

    @property
    def sampler(self) -> Sampler:
        spans = [AxisSpan(1)] * 2
        for axis, pixels in zip(raster_axes(self.grid), self.plot_size, strict=True):
            spans[axis] = AxisSpan(pixels, strongest=True)
        return Sampler(tuple(spans))

    def lay_out(self, values: FloatArray) -> FloatArray:
        return self.laid(values.transpose(raster_axes(self.grid)))


def raster(grid: Grid, sketch: Sketch, long_side: int) -> Raster:
    """As large as fits into a square."""
    down, right = (grid.size[axis] for axis in raster_axes(grid))
    if "T" in grid.letters:  # steps of time and cells of space have no common measure
        total = max(1, round(long_side * min(max(down / right, 0.25), 1.0)))
        axis = axis_height((total, long_side))
        return Raster(grid, sketch, (total - axis, long_side), axis, right)
    height, width = _plane_size((down, right))
    scale = long_side / max(height, width)
    return Raster(grid, sketch, (max(1, round(height * scale)), max(1, round(width * scale))))


def _plane_size(size: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a plane of so many cells, which are square unless it were a thread."""
    least = max(size) * _LEAST_RATIO
    return max(size[0], least), max(size[1], least)


@dataclass(frozen=True, eq=False)
class Slices(Canvas):
    """Slices of equal size on white, in reading order, each under its caption.

    tile: height and width of a slice. caption: size of the text, 0 for none.
    """

    cuts: Cuts
    tile: tuple[int, int]
    columns: int
    gap: int
    caption: int

    partial = True

    @property
    def size(self) -> tuple[int, int]:
        last = self.panels[-1]
        columns = min(self.columns, self.cuts.count)
        return last[0].stop, columns * (self.tile[1] + self.gap) - self.gap

    @property
    def panels(self) -> list[Panel]:
        height, width = self.tile
        strip = _strip(self.caption)
        found = []
        for number in range(self.cuts.count):
            row, column = divmod(number, self.columns)
            top = row * (height + strip + self.gap) + strip
            left = column * (width + self.gap)
            found.append((slice(top, top + height), slice(left, left + width)))
        return found

    def draw(self) -> Image.Image:
        sheet = Image.new("RGB", self.size[::-1], "white")
        pen = ImageDraw.Draw(sheet)
        tiles = self._tiles()
        for (rows, columns), caption, tile in zip(
            self.panels, self.cuts.captions, tiles, strict=True
        ):
            sheet.paste(cells(tile, self.tile), (columns.start, rows.start))
            if self.caption:
                place = (columns.start, rows.start - _strip(self.caption) // 2)
                draw_text(pen, place, caption, self.caption, "lm")
        return sheet

    def _tiles(self) -> list[np.ndarray]:
        """The slices of the sketch that are shown."""
        kept = cuts_of(self.grid)
        all_ = self.sketch.reshape(kept.count, -1, *self.sketch.shape[1:])
        if self.cuts.chosen == kept.chosen:
            return list(all_)
        (before,), (now,) = kept.chosen, self.cuts.chosen
        return [all_[before.index(index)] for index in now]

    @property
    def sampler(self) -> Sampler:
        sides = dict(zip(self.cuts.plane, self.tile, strict=True))
        chosen = dict(zip(self.cuts.axes, self.cuts.chosen, strict=True))
        spans = [
            Picked.among(size, chosen[axis])
            if axis in chosen
            else AxisSpan(sides[axis], strongest=True)
            for axis, size in enumerate(self.grid.size)
        ]
        return Sampler(tuple(spans))

    def lay_out(self, values: FloatArray) -> FloatArray:
        laid = np.zeros(self.size, dtype=values.dtype)
        for panel, one in zip(self.panels, self.cuts.stacked(values), strict=True):
            laid[panel] = one
        return laid


def slices(grid: Grid, sketch: Sketch, long_side: int) -> Slices:
    """All kept slices, on a sheet that fits into a square."""
    cuts = cuts_of(grid)
    plane = _plane_size(cuts.plane_size)
    columns = len(cuts.chosen[-1]) if len(cuts.axes) > 1 else _columns(cuts.count, plane)
    rows = math.ceil(cuts.count / columns)
    gap = _gap(long_side)

    def tile(strip: int) -> tuple[int, int]:
        across = (long_side - (columns - 1) * gap) / columns
        down = (long_side - (rows - 1) * gap) / rows - strip
        scale = min(across / plane[1], down / plane[0])
        return max(1, int(plane[0] * scale)), max(1, int(plane[1] * scale))

    text = text_size(long_side)
    caption = _caption(cuts, tile(_strip(text)), text)
    return Slices(
        grid, sketch, cuts, tile(_strip(caption)), columns=columns, gap=gap, caption=caption
    )


def slices_of_size(grid: Grid, sketch: Sketch, size: tuple[int, ...]) -> Slices:
    """Slices of just that size in the client's order, and at most so many."""
    sizes = dict(zip(grid.order, size, strict=True))
    kept = cuts_of(grid)
    cuts = kept.fewer(sizes[kept.axes[0]])
    down, right = cuts.plane
    tile = sizes[down], sizes[right]
    columns = _columns(cuts.count, tile)
    long_side = max(tile[1] * columns, tile[0] * math.ceil(cuts.count / columns))
    caption = _caption(cuts, tile, text_size(long_side))
    return Slices(grid, sketch, cuts, tile, columns=columns, gap=_gap(long_side), caption=caption)


def _strip(caption: int) -> int:
    """Height of a caption in that size of text."""
    return round(1.4 * caption)


def _gap(long_side: int) -> int:
    return max(2, round(long_side / 100))


def _caption(cuts: Cuts, tile: tuple[int, int], size: int) -> int:
    """The size of captions that fit above slices of that size; 0 if none do."""
    for smaller in range(size, SMALLEST - 1, -1):
        if tile[0] >= 3 * smaller and text_width(cuts.captions, smaller) <= tile[1]:
            return smaller
    return 0


def _columns(count: int, tile: tuple[float, float]) -> int:
    """So many that the sheet is a little wider than high, with few places left empty."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        ratio = columns * tile[1] / (rows * tile[0])
        return abs(math.log(ratio / _SHEET_RATIO)) + (rows * columns - count) / count

    return min(range(1, count + 1), key=badness)
