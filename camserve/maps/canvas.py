"""How arrays that are no photographs are shown: curves over time, slices of a volume, frames.

A canvas draws a sketch in some size, and lays maps out on the same places, so that the overlay of
a photograph can be drawn over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from camserve.maps.captions import draw_time_axis, text_size, time_axis_height
from camserve.maps.contour import Panel
from camserve.maps.grids import Grid
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import Sampler
from camserve.maps.sketches import Sketch

__all__ = ["Canvas", "Mask", "Plot", "axis_height", "cells"]

_LOWEST_WITH_AXIS: Final = 48

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Canvas(ABC):
    """A drawing of the sketch of an array of one `grid`."""

    grid: Grid
    sketch: Sketch

    ink = False
    """Whether the drawing is lines on white paper, and colours belong under them."""
    partial = False
    """Whether only a part of the map is shown."""
    orientation = 1
    """EXIF: a canvas stands upright."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the drawing."""

    @abstractmethod
    def draw(self) -> Image.Image:
        """The drawing, RGB."""

    @property
    @abstractmethod
    def sampler(self) -> Sampler:
        """Brings a map to what `lay_out` takes."""

    @property
    @abstractmethod
    def panels(self) -> list[Panel]:
        """Rows and columns of the parts that a map belongs to; what is between them is none."""

    @abstractmethod
    def lay_out(self, values: FloatArray) -> FloatArray:
        """A sampled map on the drawing's pixels, (height, width); 0 between the panels."""

    @property
    def mask(self) -> Mask | None:
        """The pixels of the panels; None for all."""
        mask = np.zeros(self.size, dtype=np.bool_)
        for panel in self.panels:
            mask[panel] = True
        return None if mask.all() else mask


@dataclass(frozen=True, eq=False)
class Plot(Canvas):
    """A canvas of one panel. axis: pixels below it for the numbers of `steps` of time, if any."""

    plot_size: tuple[int, int]
    axis: int = 0
    steps: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.plot_size[0] + self.axis, self.plot_size[1]

    @property
    def panels(self) -> list[Panel]:
        height, width = self.plot_size
        return [(slice(0, height), slice(0, width))]

    def on_paper(self, plot: Image.Image) -> Image.Image:
        """The drawing of the panel, with the axis below."""
        if not self.axis:
            return plot
        paper = Image.new("RGB", self.size[::-1], "white")
        paper.paste(plot, (0, 0))
        pen, text = ImageDraw.Draw(paper), text_size(self.size[1])
        draw_time_axis(pen, self.size[1], plot.height, self.steps, text)
        return paper

    def laid(self, pixels: FloatArray) -> FloatArray:
        """The panel's pixels on the whole drawing."""
        whole = np.zeros(self.size, dtype=pixels.dtype)
        whole[self.panels[0]] = pixels
        return whole


def axis_height(size: tuple[int, int]) -> int:
    """Of the axis of time that a drawing of that size has room for: 0 if it has none."""
    height = time_axis_height(text_size(size[1]))
    return height if size[0] >= max(_LOWEST_WITH_AXIS, 3 * height) else 0


def cells(levels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Gray levels (h, w) or colours (h, w, 3) with sharp cells, (height, width), RGB."""
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")
    # first to a whole multiple, cells as they are, then down: only the borders between are mixed
    times = max(1, -(-width // image.width)), max(1, -(-height // image.height))
    enlarged = image.resize(
        (image.width * times[0], image.height * times[1]), Image.Resampling.NEAREST
    )
    return enlarged.resize((width, height), Image.Resampling.BOX)
