"""Small print on drawings: captions of slices, and an axis of time."""

from __future__ import annotations

import math
from typing import Final

from PIL import ImageDraw, ImageFont

__all__ = [
    "INK",
    "SMALLEST",
    "draw_text",
    "draw_time_axis",
    "text_size",
    "text_width",
    "time_axis_height",
]

INK: Final = (90, 90, 90)
SMALLEST: Final = 11
_LARGEST: Final = 28
_TICK_EVERY: Final = 5  # letters


def text_size(long_side: int) -> int:
    """Of legible text in a drawing of that size, in pixels."""
    return min(max(SMALLEST, round(long_side / 44)), _LARGEST)


def text_width(texts: list[str], size: int) -> int:
    """Of the widest."""
    font = ImageFont.load_default(size)
    return max(math.ceil(font.getlength(text)) for text in texts)


def draw_text(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, anchor: str
) -> None:
    """Small print at a place; `anchor` as Pillow has it."""
    pen.text(place, text, fill=INK, font=ImageFont.load_default(size), anchor=anchor)


def time_axis_height(size: int) -> int:
    """Of ticks and numbers with text of that size."""
    return size + _tick(size) + 3


def draw_time_axis(pen: ImageDraw.ImageDraw, width: int, top: int, steps: int, size: int) -> None:
    """Ticks from `top` down, at round numbers of steps, counted from 0, that are `width` long."""
    longest = text_width([str(steps)], size)
    every = _round_up(steps * (longest + _TICK_EVERY * size / 2) / width)
    for step in range(0, steps, every):
        x = (step + 0.5) * width / steps
        pen.line((x, top, x, top + _tick(size)), fill=INK, width=max(1, size // 14))
        # the outer numbers stay on the drawing
        half = text_width([str(step)], size) / 2 + 2
        middle = min(max(x, half), width - half)
        draw_text(pen, (middle, top + _tick(size) + 1), str(step), size, "mt")


def _tick(size: int) -> int:
    return max(2, size // 4)


def _round_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 …"""
    decade = 1
    while True:
        for digit in (1, 2, 5):
            if digit * decade >= value:
                return digit * decade
        decade *= 10
