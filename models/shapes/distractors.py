"""Things in a scene that have no name: lines, arcs, squiggles, zigzags, blobs and dots.

They share the colours and, the blobs, the size of the named shapes, so that neither colour nor
size gives the answer away; only the outline does. Coordinates are fractions of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.shapes.outlines import Points, turned

SUPERSAMPLING: Final = 4
"""Edges are drawn this many times finer and averaged down: 17 grey levels of antialiasing."""


@dataclass(frozen=True)
class Mark:
    """A closed area, or a stroke along an open path where `width` > 0."""

    path: Points
    """(n, 2) of (x, y) in picture widths."""
    width: float = 0.0
    """Of the stroke, in picture widths; 0 fills the closed path."""


def coverage(marks: list[Mark], size: int) -> NDArray[np.float32]:
    """How much of each pixel these marks cover: (size, size) in [0, 1]."""
    fine = size * SUPERSAMPLING
    canvas = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    for mark in marks:
        corners = [(x, y) for x, y in (mark.path * fine).tolist()]
        if mark.width > 0:
            draw.line(corners, fill=255, width=max(1, round(mark.width * fine)), joint="curve")
        else:
            draw.polygon(corners, fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / np.float32(255)


def _placed(rng: np.random.Generator, points: Points, radius: float) -> Points:
    centre = rng.uniform(0.02, 0.98, 2)
    return turned(points, rng.uniform(0, 2 * np.pi)) * radius + centre


def _line(rng: np.random.Generator) -> list[Mark]:
    path = _placed(rng, np.array([(-1.0, 0.0), (1.0, 0.0)]), rng.uniform(0.12, 0.5))
    return [Mark(path, rng.uniform(0.008, 0.03))]


def _arc(rng: np.random.Generator) -> list[Mark]:
    angles = np.linspace(0.0, rng.uniform(0.9, 3.6), 32)
    path = _placed(rng, np.stack([np.cos(angles), np.sin(angles)], axis=1), rng.uniform(0.08, 0.25))
    return [Mark(path, rng.uniform(0.008, 0.03))]


def _squiggle(rng: np.random.Generator) -> list[Mark]:
    x = np.linspace(-1.0, 1.0, 60)
    y = rng.uniform(0.1, 0.3) * np.sin(x * rng.uniform(4, 12) + rng.uniform(0, 6))
    path = _placed(rng, np.stack([x, y + 0.3 * x**2], axis=1), rng.uniform(0.12, 0.35))
    return [Mark(path, rng.uniform(0.008, 0.025))]


def _zigzag(rng: np.random.Generator) -> list[Mark]:
    x = np.linspace(-1.0, 1.0, int(rng.integers(4, 9)))
    y = rng.uniform(0.15, 0.4) * np.where(np.arange(len(x)) % 2 == 0, 1.0, -1.0)
    path = _placed(rng, np.stack([x, y], axis=1), rng.uniform(0.1, 0.28))
    return [Mark(path, rng.uniform(0.008, 0.022))]


def _blob(rng: np.random.Generator) -> list[Mark]:
    """A peanut or a trefoil: too lobed for a circle, too round for anything with corners."""
    angles = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    lobes = int(rng.integers(2, 4))
    radii = 0.68 + rng.uniform(0.18, 0.26) * np.cos(lobes * angles)
    radii += rng.uniform(0.06, 0.12) * np.cos((lobes + 2) * angles + rng.uniform(0, 6))
    points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)
    return [Mark(_placed(rng, points, rng.uniform(0.07, 0.2)))]


def _bar(rng: np.random.Generator) -> list[Mark]:
    half = rng.uniform(0.1, 0.16)
    box = np.array([(-1.0, -half), (1.0, -half), (1.0, half), (-1.0, half)])
    return [Mark(_placed(rng, box, rng.uniform(0.12, 0.25)))]


def _dots(rng: np.random.Generator) -> list[Mark]:
    """A loose cluster of specks, each far smaller than any named circle."""
    angles = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)
    speck = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.009, 0.02)
    middle = rng.uniform(0.05, 0.95, 2)
    return [Mark(speck + middle + rng.normal(0, 0.09, 2)) for _ in range(int(rng.integers(3, 9)))]


_AREAS: Final = (_blob, _bar, _dots)
_STROKES: Final = (_line, _arc, _squiggle, _zigzag)


def clutter(rng: np.random.Generator) -> list[Mark]:
    """The marks of one random distractor, to go behind the named shape."""
    kinds: tuple[Callable[[np.random.Generator], list[Mark]], ...] = _AREAS + _STROKES
    return kinds[rng.integers(len(kinds))](rng)


def occluder(rng: np.random.Generator) -> list[Mark]:
    """One thin stroke, to go in front of everything."""
    return [Mark(m.path, min(m.width, 0.016)) for m in _STROKES[rng.integers(len(_STROKES))](rng)]
