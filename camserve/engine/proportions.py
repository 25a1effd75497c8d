"""Whether a grid has the proportions of the input, so that it can be a map of it."""

from __future__ import annotations

import math

from camserve.engine.layouts import Extent

__all__ = ["grids_of", "is_coarser", "map_error"]


def map_error(grid: tuple[int, ...], extent: Extent) -> float | None:
    """How far `grid` is from the proportions of the input, in cells; None if too far.

    Space and time have strides of their own.
    """
    if len(grid) != len(extent.size) or min(grid) < 1 or max(grid) == 1:
        return None
    if not extent.is_video:
        return _space_error(grid, extent.size) if len(grid) > 1 else _line_error(grid, extent.size)
    errors = []
    for letter in "ST":
        chosen = [axis for axis, known in enumerate(extent.letters) if known == letter]
        cells = tuple(grid[axis] for axis in chosen)
        size = tuple(extent.size[axis] for axis in chosen)
        if max(cells) == 1:  # pooled; the other of the two still has a map
            error: float | None = 0.0
        else:
            error = _space_error(cells, size) if len(cells) > 1 else _line_error(cells, size)
        if error is None:
            return None
        errors.append(error)
    return max(errors)


def _space_error(grid: tuple[int, ...], size: tuple[int, ...]) -> float | None:
    """None: no single stride brings every axis within one cell.

    A cascade of odd sizes such as 299 -> 149 -> 147 -> 73 loses up to about one cell on an axis.
    """
    least = max(length / (cells + 1) for length, cells in zip(size, grid, strict=True))
    most = min(
        length / (cells - 1) if cells > 1 else math.inf
        for length, cells in zip(size, grid, strict=True)
    )
    if least > most:
        return None
    stride: float = (math.prod(size) / math.prod(grid)) ** (1 / len(grid))
    return max(abs(cells - length / stride) for length, cells in zip(size, grid, strict=True))


def _line_error(grid: tuple[int, ...], size: tuple[int, ...]) -> float | None:
    """Every length is in proportion to a line: ask for a whole stride, within one cell."""
    (cells,), (length,) = grid, size
    if not 2 <= cells <= length + 1:
        return None
    error = abs(cells - length / max(1, round(length / cells)))
    return error if error <= 1 else None


def grids_of(positions: int, extent: Extent) -> set[tuple[int, ...]]:
    """Grids with so many positions that one whole stride on every axis makes of the extent."""
    grids: set[tuple[int, ...]] = set()
    for stride in range(1, max(extent.size) + 1):
        if math.prod(length / stride + 1 for length in extent.size) < positions:
            break  # larger strides only make fewer
        floor = tuple(length // stride for length in extent.size)
        ceiling = tuple(-(-length // stride) for length in extent.size)
        grids |= {grid for grid in (floor, ceiling) if math.prod(grid) == positions > 1}
    return grids


def is_coarser(grid: tuple[int, ...], seen: tuple[int, ...]) -> bool:
    """Whether a whole stride makes `grid` of `seen`, rounding up or down."""
    stride = max(1, round(max(seen) / max(grid)))
    pairs = list(zip(grid, seen, strict=True))
    return all(cells == size // stride for cells, size in pairs) or all(
        cells == -(-size // stride) for cells, size in pairs
    )
