"""Sequences: curves over time, or a carpet of gray levels where there are many channels."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from camserve.maps.canvas import Plot, axis_height, cells
from camserve.maps.grids import Grid
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import AxisSpan, Sampler
from camserve.maps.sketches import Sketch, portions

__all__ = ["Carpet", "Curves", "timeline"]

_OVERSAMPLE: Final = 3  # Pillow's lines are not smooth
_LINE: Final = (24, 32, 48)
_BAND: Final = (105, 115, 135)
_FULL: Final = 0.15  # of a lane's area
_RULE: Final = (225, 225, 225)


class Timeline(Plot):
    """Time runs to the right; a map has the same value from top to bottom."""

    @property
    def sampler(self) -> Sampler:
        return Sampler((AxisSpan(self.size[1], strongest=True),))

    def lay_out(self, values: FloatArray) -> FloatArray:
        return self.laid(values[None])


class Curves(Timeline):
    """A lane for each channel, in which its curve has the scale of its own values."""

    ink = True

    def draw(self) -> Image.Image:
        height, width = (side * _OVERSAMPLE for side in self.plot_size)
        plot = Image.new("L", (width, height))
        pen = ImageDraw.Draw(plot)
        lane = height / self._lanes
        thick = round(_OVERSAMPLE * min(max(self.size[1] / 480, 1.2), 3.0))
        margin = min(0.12 * lane, 6.0 * _OVERSAMPLE) + thick / 2
        for number in range(self._lanes):
            low, high = self._ends(number)
            bottom = (number + 1) * lane - margin
            line = _zigzag(low, high, width, bottom, lane - 2 * margin)
            # round joints of lines as short as their width cost much, and nobody sees them
            joint = "curve" if len(line) < self.size[1] else None
            pen.line(line, fill=255, width=thick, joint=joint)
        return self.on_paper(self._inked(plot.resize(self.plot_size[::-1], Image.Resampling.BOX)))

    @property
    def _lanes(self) -> int:
        return len(self.sketch) // 2

    def _ends(self, number: int) -> tuple[FloatArray, FloatArray]:
        """The least and the greatest of a curve, 0 to 1, in at most a column for each pixel."""
        low, high = self.sketch[2 * number : 2 * number + 2].astype(np.float64) / 65535
        starts = portions(len(low), min(len(low), self.size[1]))
        return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)

    def _inked(self, cover: Image.Image) -> Image.Image:
        """Dark lines on white; a band of ink, as a waveform is, lets the colours through."""
        plot = Image.new("RGB", cover.size, "white")
        edges = [round(number * cover.height / self._lanes) for number in range(self._lanes + 1)]
        for top, bottom in itertools.pairwise(edges):
            if top < bottom:
                stencil = cover.crop((0, top, cover.width, bottom))
                share = float(np.asarray(stencil).mean()) / 255
                plot.paste(_LINE if share < _FULL else _BAND, (0, top), stencil)
        pen = ImageDraw.Draw(plot)
        for edge in edges[1:-1]:
            pen.line((0, edge, cover.width, edge), fill=_RULE, width=1)
        return plot


def _zigzag(
    low: FloatArray, high: FloatArray, width: int, bottom: float, reach: float
) -> list[tuple[float, float]]:
    """A line through the least and the greatest value of each column."""
    columns = len(low)
    x = (np.arange(columns) + 0.5) * width / columns
    if columns == 1:
        x = np.array([0.0, width])
        low = high = np.repeat(low, 2)
    if np.array_equal(low, high):
        return list(zip(x.tolist(), (bottom - reach * low).tolist(), strict=True))
    ends = np.stack([low, high], axis=1)
    ends[1::2] = ends[1::2, ::-1]  # up, across, down, across
    return list(
        zip(np.repeat(x, 2).tolist(), (bottom - reach * ends.reshape(-1)).tolist(), strict=True)
    )


class Carpet(Timeline):
    """A row of gray levels for each channel."""

    def draw(self) -> Image.Image:
        return self.on_paper(cells(np.asarray(self.sketch, np.uint8), self.plot_size))


def timeline(grid: Grid, sketch: Sketch, width: int) -> Timeline:
    """A sequence, so wide; the more channels, the higher."""
    curves = sketch.dtype == np.uint16
    lanes = len(sketch) // 2 if curves else len(sketch)
    ratio = (
        min(max(lanes / 22, 0.25), 0.75) if curves else min(max(lanes / grid.size[0], 0.3), 0.75)
    )
    height = max(1, round(width * ratio))
    axis = axis_height((height, width))
    kind = Curves if curves else Carpet
    return kind(grid, sketch, (height - axis, width), axis, grid.size[0])
