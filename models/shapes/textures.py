"""Textured backgrounds: noise, gradients, stripes, checks, marble and wood.

A background is a scalar field in [0, 1] that blends between two or three colours. Its random
numbers do not depend on the size, so one seed is the same picture at 128 and at 512 pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating[Any]]
"""(size, size), nominally in [0, 1]."""

Colour = NDArray[np.floating[Any]]
"""(3,) red, green, blue in [0, 1]."""


def colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """A random colour of any hue, with saturation and value (HSV) in these ranges."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, np.float32)


def _axes(size: int) -> tuple[Field, Field]:
    """Pixel centres as fractions of the picture: x (1, size) and y (size, 1)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def _along(rng: np.random.Generator, size: int) -> Field:
    """Distance along a random direction, in picture widths."""
    x, y = _axes(size)
    angle = rng.uniform(0, 2 * np.pi)
    distance: Field = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    return distance


def _smooth(grid: NDArray[np.float64], size: int) -> Field:
    """A coarse grid of numbers, made smooth at `size` by bicubic interpolation."""
    image = Image.fromarray(grid.astype(np.float32))
    field: Field = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return field


def noise(rng: np.random.Generator, size: int, coarsest: int = 3, octaves: int = 4) -> Field:
    """Sum of random grids at several scales, each half as strong as the one before."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = coarsest * 2**octave
        total += _smooth(rng.random((cells, cells)) - 0.5, size) * 0.5**octave
    field: Field = total + 0.5
    return field


def _clouds(rng: np.random.Generator, size: int) -> Field:
    return noise(rng, size, coarsest=int(rng.integers(2, 6)), octaves=5)


def _gradient(rng: np.random.Generator, size: int) -> Field:
    ramp = _along(rng, size)
    low, high = ramp.min(), ramp.max()
    field: Field = (ramp - low) / (high - low) + 0.5 * (noise(rng, size, coarsest=6) - 0.5)
    return field


def _wave(phase: Field, sharpness: float) -> Field:
    """A wave of period 1 in `phase`: a sine at sharpness 1, nearly a square wave at 6."""
    wave: Field = np.clip(np.sin(2 * np.pi * phase) * sharpness, -1, 1) / 2 + 0.5
    return wave


def _stripes(rng: np.random.Generator, size: int) -> Field:
    count, sharpness, wobble = rng.uniform(5, 14), rng.uniform(1, 5), rng.uniform(0, 0.08)
    return _wave((_along(rng, size) + wobble * noise(rng, size)) * count, sharpness)


def _checks(rng: np.random.Generator, size: int) -> Field:
    x, y = _axes(size)
    angle, count, wobble = rng.uniform(0, np.pi), rng.uniform(5, 9), rng.uniform(0, 0.06)
    bend = wobble * noise(rng, size)
    u = (np.cos(angle) * x + np.sin(angle) * y + bend) * count
    v = (np.cos(angle) * y - np.sin(angle) * x + bend) * count
    sines = np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)
    field: Field = (np.clip(sines * rng.uniform(2, 5), -1, 1) / 2 + 0.5).astype(np.float32)
    return field


def _marble(rng: np.random.Generator, size: int) -> Field:
    veins = _along(rng, size) * rng.uniform(1, 4) + noise(rng, size, octaves=5) * rng.uniform(2, 4)
    field: Field = 1 - np.abs(np.sin(np.pi * veins)) ** 0.6
    return field


def _wood(rng: np.random.Generator, size: int) -> Field:
    x, y = _axes(size)
    centre_x, centre_y = rng.uniform(-0.6, 1.6), rng.uniform(-0.6, -0.1)
    distance = np.sqrt((x - centre_x) ** 2 + 0.3 * (y - centre_y) ** 2)
    return _wave(distance * rng.uniform(7, 14) + noise(rng, size) * rng.uniform(0.5, 1.5), 1.0)


TEXTURES: Final[tuple[Callable[[np.random.Generator, int], Field], ...]] = (
    _clouds,
    _gradient,
    _stripes,
    _checks,
    _marble,
    _wood,
)


def background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A random texture in random colours: (size, size, 3) in [0, 1], nominally."""
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    first = colour(rng, (0.05, 0.6), (0.25, 0.95))
    second = colour(rng, (0.05, 0.6), (0.25, 0.95))
    second = first + (second - first) * np.float32(rng.uniform(0.45, 0.9))
    blend = np.clip(texture(rng, size), 0, 1)[..., None]
    light = 1 + 0.5 * (noise(rng, size, coarsest=2, octaves=2) - 0.5)[..., None]
    return (first + (second - first) * blend) * light
