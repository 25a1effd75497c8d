"""Several pictures as one: a row for each input, its maps from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image

__all__ = ["sheet"]

_GAP_PX: Final = 8


def sheet(pictures: Sequence[Image.Image], rows: Sequence[int]) -> Image.Image:
    """All pictures on white; `rows[i]`, ascending, says in which row picture i stands."""
    lines: dict[int, list[Image.Image]] = {}
    for picture, row in zip(pictures, rows, strict=True):
        lines.setdefault(row, []).append(picture)
    widths = [sum(p.width for p in line) + _GAP_PX * (len(line) - 1) for line in lines.values()]
    heights = [max(p.height for p in line) for line in lines.values()]
    whole = Image.new("RGB", (max(widths), sum(heights) + _GAP_PX * (len(lines) - 1)), "white")
    top = 0
    for line, height in zip(lines.values(), heights, strict=True):
        left = 0
        for picture in line:
            mask = picture if picture.mode == "RGBA" else None
            whole.paste(picture, (left, top), mask)
            left += picture.width + _GAP_PX
        top += height + _GAP_PX
    return whole
