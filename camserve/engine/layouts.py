"""Which dimension of a tensor is what, and how to bring it to (N, K, *S)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["Layout", "grids_of", "proportion_error", "refit", "to_channels_first"]


@dataclass(frozen=True)
class Layout:
    """A reading of a shape as a feature map.

    `letters`: one per dimension, B batch, C channel, S space, T time or tokens. `grid`: the size
    of the map. `prefix_tokens`: tokens before the grid's (class, distillation, registers).
    """

    letters: str
    grid: tuple[int, ...]
    prefix_tokens: int = 0

    @property
    def channels_first(self) -> bool:
        return self.letters[1] == "C"

    @property
    def is_tokens(self) -> bool:
        """One dimension holds all positions, perhaps behind prefix tokens."""
        return self.letters == "BTC"


def to_channels_first(tensor: Tensor, layout: Layout) -> Tensor:
    """`tensor` as (N, K, *grid), prefix tokens dropped; a view where possible."""
    if layout.channels_first:
        return tensor
    if layout.is_tokens:
        tokens = tensor[:, layout.prefix_tokens :].movedim(-1, 1)
        return tokens.reshape(*tokens.shape[:2], *layout.grid)
    return tensor.movedim(-1, 1)


def proportion_error(grid: tuple[int, ...], extent: tuple[int, ...]) -> float | None:
    """How far `grid` is from the proportions of the input's `extent`, in cells; None if too far.

    Too far: no single stride brings every axis within one cell (a cascade of odd sizes such as
    299 -> 149 -> 147 -> 73 loses up to about one cell on an axis).
    """
    if len(grid) != len(extent) or min(grid) < 1 or max(grid) == 1:
        return None
    least = max(size / (cells + 1) for size, cells in zip(extent, grid, strict=True))
    most = min(
        size / (cells - 1) if cells > 1 else math.inf
        for size, cells in zip(extent, grid, strict=True)
    )
    if least > most:
        return None
    stride: float = (math.prod(extent) / math.prod(grid)) ** (1 / len(grid))
    return max(abs(cells - size / stride) for size, cells in zip(extent, grid, strict=True))


def grids_of(positions: int, extent: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Grids with so many positions that one whole stride on every axis makes of `extent`."""
    grids: set[tuple[int, ...]] = set()
    for stride in range(1, max(extent) + 1):
        floor = tuple(size // stride for size in extent)
        if math.prod(size / stride + 1 for size in extent) < positions:
            break  # larger strides only make fewer
        ceiling = tuple(-(-size // stride) for size in extent)
        grids |= {grid for grid in (floor, ceiling) if math.prod(grid) == positions > 1}
    return grids


def refit(
    layout: Layout, shape: tuple[int, ...], before: tuple[int, ...], now: tuple[int, ...]
) -> Layout | None:
    """`layout`, read when the input had the extent `before`, for a `shape` and the extent `now`.

    None if the tokens of `shape` are no grid in the new proportions.
    """
    if not layout.is_tokens:
        return replace(layout, grid=shape[2:] if layout.channels_first else shape[1:-1])
    positions = shape[1] - layout.prefix_tokens
    if len(layout.grid) == 1:
        return replace(layout, grid=(positions,)) if positions > 0 else None
    expected = [cells * new / old for cells, new, old in zip(layout.grid, now, before, strict=True)]
    near = [range(max(1, math.floor(cells) - 1), math.ceil(cells) + 2) for cells in expected]
    grids = [grid for grid in itertools.product(*near) if math.prod(grid) == positions]
    if not grids:
        return None
    return replace(layout, grid=min(grids, key=lambda grid: math.dist(grid, expected)))
