"""Cluttered scenes: one named shape among things without a name, on a textured background.

`scene(seed)` is a pure function: the same seed is the same scene, at any size. The label is
`seed % 8`, so every run of consecutive seeds holds the classes in equal shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.shapes.distractors import Mark, clutter, coverage, occluder
from models.shapes.outlines import LABELS, OUTLINES, Points, turned
from models.shapes.textures import Colour, background, colour

TRAINING: Final = range(8_000)
VALIDATION: Final = range(1_000_000, 1_001_000)
TEST: Final = range(2_000_000, 2_002_000)
"""Held out: looked at once, after training."""
POINTING: Final = TEST[:200]
"""The held-out scenes of the pointing game."""

SIZE: Final = 128
"""Side of the network's input, in pixels."""

MOST_SHAPES: Final = 3
"""In one picture, side by side."""

Picture = NDArray[np.uint8]
"""(size, size, 3) red, green, blue in 0..255."""

Mask = NDArray[np.bool_]
"""(size, size), true inside the outline of a named shape, also where a thin stroke crosses it."""


@dataclass(frozen=True)
class Scene:
    """One picture, the index into LABELS of its shape, and where that shape is."""

    picture: Picture
    label: int
    mask: Mask

    @property
    def name(self) -> str:
        """The shape's name, such as `"star"`."""
        return LABELS[self.label]

    def image(self) -> Image.Image:
        """The picture as a Pillow image."""
        return Image.fromarray(self.picture)


def scene(seed: int, size: int = SIZE) -> Scene:
    """The scene of this seed, `size` pixels wide and high."""
    label = seed % len(LABELS)
    picture, masks = group(seed, (label,), size)
    return Scene(picture, label, masks[0])


def group(
    seed: int, labels: tuple[int, ...], size: int = SIZE, *, grain: bool = True
) -> tuple[Picture, list[Mask]]:
    """A scene with these named shapes, apart from each other, and the mask of each.

    The network learns from single shapes only; pictures with two show that a map follows the
    class that was asked for. Film grain, drawn anew at each size, can be left out for
    pictures that people look at. Raises ValueError for more shapes than find room.
    """
    if len(labels) > MOST_SHAPES:
        raise ValueError(f"a scene has room for {MOST_SHAPES} shapes, not {len(labels)}")
    rng = np.random.default_rng(seed)
    canvas = background(rng, size)
    for _ in range(int(rng.integers(5, 10))):
        cover = coverage(clutter(rng), size)
        _paint(canvas, cover, _vivid(rng), rng.uniform(0.75, 1.0))

    spots = _spots(rng, len(labels))
    masks = [
        _draw_shape(rng, canvas, label, *spot) for label, spot in zip(labels, spots, strict=True)
    ]

    for _ in range(int(rng.integers(0, 3))):
        _paint(canvas, coverage(occluder(rng), size), _vivid(rng), rng.uniform(0.7, 1.0))
    if grain:
        strength = rng.uniform(0.005, 0.035)
        canvas += np.random.default_rng((seed, size)).normal(0, strength, canvas.shape)
    return (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), masks


def _spots(rng: np.random.Generator, count: int) -> list[tuple[Points, float]]:
    """(centre, radius) of each shape, inside the picture and apart, in picture widths."""
    largest = 0.3 if count == 1 else 0.22
    while True:
        radii = rng.uniform(0.16, largest, count)
        centres = [rng.uniform(radius + 0.01, 0.99 - radius, 2) for radius in radii]
        gaps = [
            float(np.hypot(*(centres[i] - centres[j]))) - radii[i] - radii[j]
            for i in range(count)
            for j in range(i)
        ]
        if all(gap > 0.03 for gap in gaps):
            return list(zip(centres, radii.tolist(), strict=True))


def _draw_shape(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    label: int,
    centre: Points,
    radius: float,
) -> Mask:
    """Draw one named shape on the canvas, with a soft shadow, shading and at times a rim."""
    size = len(canvas)
    unit = turned(OUTLINES[LABELS[label]](rng), rng.uniform(0, 2 * np.pi))
    outline = unit * radius + centre
    cover = coverage([Mark(outline)], size)
    inside = cover > 0.5

    shift = rng.uniform(-0.025, 0.025, 2)
    _paint(canvas, coverage([Mark(outline + shift)], size), np.zeros(3, np.float32), 0.35)

    fill = _contrasting(rng, canvas[inside].mean(axis=0))
    direction = rng.uniform(0, 2 * np.pi)
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    along = np.cos(direction) * (line[None, :] - centre[0])
    along = along + np.sin(direction) * (line[:, None] - centre[1])
    shade = 1 + rng.uniform(0, 0.35) * along / radius
    _paint(canvas, cover, fill * shade[..., None].astype(np.float32), 1.0)
    if rng.random() < 0.4:
        rim = coverage(
            [Mark(np.concatenate([outline, outline[:2]]), rng.uniform(0.008, 0.02))], size
        )
        _paint(canvas, rim * cover, fill * np.float32(rng.uniform(0.4, 0.7)), 1.0)
    return inside


def _vivid(rng: np.random.Generator) -> Colour:
    """A colour for things in the foreground, named or not."""
    return colour(rng, (0.35, 1.0), (0.4, 1.0))


def _contrasting(rng: np.random.Generator, behind: Colour) -> Colour:
    """The first of several colours that stands out from what is behind, or the best of them.

    All are drawn first, so that the choice, which may tip with the picture's size, moves no
    later random number.
    """
    tries = [_vivid(rng) for _ in range(8)]
    distances = [float(np.linalg.norm(candidate - behind)) for candidate in tries]
    return next(
        (c for c, d in zip(tries, distances, strict=True) if d > 0.45),
        tries[int(np.argmax(distances))],
    )


def _paint(
    canvas: NDArray[np.float32],
    cover: NDArray[np.float32],
    paint: NDArray[np.float32],
    opacity: float,
) -> None:
    """Blend `paint`, a colour or a picture of them, into the canvas where `cover` is."""
    canvas += (paint - canvas) * (cover * np.float32(opacity))[..., None]
