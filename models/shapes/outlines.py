"""The eight named shapes, as polygons about the origin.

Every function takes a random generator, which varies the proportions a little, and returns an
(n, 2) float array of (x, y) corners inside the unit circle. Where a shape is placed, how large
and turned how far is the business of `scenes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating[Any]]
"""(n, 2) of x and y, or (n,) of numbers along an outline."""


def turned(points: Points, angle: float) -> Points:
    """The points turned by `angle` radians about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    rotated: Points = points @ np.array([(cos, sin), (-sin, cos)])
    return rotated


def _polar(angles: Points, radii: Points | float) -> Points:
    """(n, 2) points at these angles, in radians, and distances from the origin."""
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _mirrored(half: list[tuple[float, float]]) -> Points:
    """A polygon that is symmetric about the x axis, from its upper half, left to right."""
    upper = np.array(half)
    return np.concatenate([upper, upper[::-1] * (1.0, -1.0)])


def _arrow(rng: np.random.Generator) -> Points:
    shaft, head, neck = rng.uniform(0.17, 0.24), rng.uniform(0.62, 0.74), rng.uniform(-0.05, 0.12)
    return _mirrored([(-0.94, 0.0), (-0.94, shaft), (neck, shaft), (neck, head), (1.0, 0.0)])


def _circle(rng: np.random.Generator) -> Points:
    angles = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    return _polar(angles, 0.92) * (1.0, rng.uniform(0.93, 1.0))


def _crescent(rng: np.random.Generator) -> Points:
    tips = rng.uniform(2.1, 2.5)
    outer = _polar(np.linspace(-tips, tips, 48), 0.98)
    # The inner edge is an arc through both tips, shallower than the outer edge.
    start, depth = outer[-1], rng.uniform(0.02, 0.16)
    centre_x = (start @ start - depth**2) / (2 * (start[0] - depth))
    bend = np.arctan2(start[1], start[0] - centre_x)
    inner = _polar(np.linspace(bend, -bend, 40), depth - centre_x)
    inner[:, 0] += centre_x
    return np.concatenate([outer, inner[1:-1]])


def _cross(rng: np.random.Generator) -> Points:
    arm = rng.uniform(0.26, 0.36)
    quarter = np.array([(0.93, -arm), (0.93, arm), (arm, arm)])
    return np.concatenate([turned(quarter, turn * np.pi / 2) for turn in range(4)])


def _heart(rng: np.random.Generator) -> Points:
    t = np.linspace(0.0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x * rng.uniform(0.94, 1.06), -(y + 2.5)], axis=1) / 19


def _square(rng: np.random.Generator) -> Points:
    half = 0.705
    corners = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
    return corners * (1.0, rng.uniform(0.9, 1.0))


def _star(rng: np.random.Generator) -> Points:
    angles = np.arange(10) * (np.pi / 5) - np.pi / 2
    return _polar(angles, np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.38, 0.48)))


def _triangle(rng: np.random.Generator) -> Points:
    angles = np.array([-np.pi / 2, np.pi / 6, np.pi * 5 / 6])
    return _polar(angles, 0.98) * (rng.uniform(0.86, 1.0), 1.0)


OUTLINES: Final[dict[str, Callable[[np.random.Generator], Points]]] = {
    "arrow": _arrow,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}

LABELS: Final[tuple[str, ...]] = tuple(OUTLINES)
"""Class names in the order of the network's scores; a label is an index into this."""
