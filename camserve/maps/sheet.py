"""Several pictures as one: a row for each input, its maps from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image

__all__ = ["sheet", "sheet_size"]

_GAP_PX: Final = 8

Size = tuple[int, int]


def sheet(pictures: Sequence[Image.Image], rows: Sequence[int]) -> Image.Image:
    """All pictures on white; `rows[i]`, ascending, says in which row picture i stands."""
    size, corners = _layout([picture.size for picture in pictures], rows)
    whole = Image.new("RGB", size, "white")
    for picture, corner in zip(pictures, corners, strict=True):
        whole.paste(picture, corner, picture if picture.mode == "RGBA" else None)
    return whole


def sheet_size(sizes: Sequence[Size], rows: Sequence[int]) -> Size:
    """(width, height) of the sheet of pictures of those sizes (width, height)."""
    return _layout(sizes, rows)[0]


def _layout(sizes: Sequence[Size], rows: Sequence[int]) -> tuple[Size, list[Size]]:
    """The size of the sheet, and the upper left corner of each picture on it."""
    corners: list[Size] = []
    left = top = right = bottom = 0
    for index, (width, height) in enumerate(sizes):
        if index and rows[index] != rows[index - 1]:
            left, top = 0, bottom + _GAP_PX
        corners.append((left, top))
        right, bottom = max(right, left + width), max(bottom, top + height)
        left += width + _GAP_PX
    return (right, bottom), corners
