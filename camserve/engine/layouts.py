"""Which dimension of a tensor is what, and how to bring it to (N, K, *S)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from torch import Tensor

from camserve.dimensions import permutation, space_and_time

__all__ = ["Extent", "Layout", "from_channels_first", "refit", "to_channels_first"]


@dataclass(frozen=True)
class Extent:
    """Space and time of a model's input: the letters S and T of its format, and their sizes."""

    letters: str
    size: tuple[int, ...]

    @property
    def time(self) -> int | None:
        """Which of the axes is time, if any is."""
        return self.letters.index("T") if "T" in self.letters else None

    @property
    def is_video(self) -> bool:
        return set(self.letters) == {"S", "T"}

    @property
    def frame(self) -> Extent:
        """Of one frame of a video."""
        sizes = zip(self.letters, self.size, strict=True)
        size = tuple(cells for letter, cells in sizes if letter == "S")
        return Extent("S" * len(size), size)


@dataclass(frozen=True)
class Layout:
    """A reading of a shape as a feature map.

    letters: one per dimension, B batch, C channel (U counts as one), S space, T time or tokens.
    grid: the size of the map, in the order of the input's space and time. prefix_tokens: tokens
    before the grid's (class, distillation, registers). frames: so many time steps of a video are
    folded into the batch, those of one input beside each other. time_last: the tokens of a video
    hold all times of one place beside each other, as TimeSformer's do.
    """

    letters: str
    grid: tuple[int, ...]
    prefix_tokens: int = 0
    frames: int | None = None
    time_last: bool = False

    @property
    def is_tokens(self) -> bool:
        """One dimension holds all positions, perhaps behind prefix tokens."""
        return "T" in self.letters and "S" not in self.letters

    @property
    def label(self) -> str:
        """For people: `BCSS`, `BTC`; `(BT)CSS` with the time folded into the batch."""
        return self.letters if self.frames is None else self.letters.replace("B", "(BT)")

    def axes(self, extent: Extent) -> list[int]:
        """The axes of the grid, in the order in which the tensor holds them."""
        axes = list(range(len(self.grid)))
        time = extent.time
        if time is None or not extent.is_video:
            return axes
        if self.frames is not None:
            return [axis for axis in axes if axis != time]
        if self.is_tokens:
            return sorted(axes, key=lambda axis: axis == time) if self.time_last else axes
        space = iter(axis for axis in axes if axis != time)
        return [time if letter == "T" else next(space) for letter in self.letters if letter in "ST"]


def to_channels_first(tensor: Tensor, layout: Layout, extent: Extent, lead: int = 0) -> Tensor:
    """`tensor` as (*lead, N, K, *grid), prefix tokens dropped; a view where possible.

    lead: so many dimensions come before those of the layout. extent: of the input.
    """
    tags: list[str | int] = list(layout.letters)
    axes = layout.axes(extent)
    if layout.is_tokens:
        at = tags.index("T")
        sizes = [layout.grid[axis] for axis in axes]
        tokens = tensor.narrow(lead + at, layout.prefix_tokens, math.prod(sizes))
        tensor = _split(tokens, lead + at, sizes)
        tags[at : at + 1] = axes
    else:
        places = [at for at, tag in enumerate(tags) if tag in ("S", "T")]
        for at, axis in zip(places, axes, strict=True):
            tags[at] = axis
    if layout.frames is not None and extent.time is not None:
        at = tags.index("B")
        tensor = _split(tensor, lead + at, [-1, layout.frames])
        tags.insert(at + 1, extent.time)
    channels = [at for at, tag in enumerate(tags) if tag in ("C", "U")]
    order = [tags.index("B"), *channels, *(tags.index(axis) for axis in range(len(layout.grid)))]
    tensor = tensor.permute(*range(lead), *(lead + at for at in order))
    if not channels:
        return tensor.unsqueeze(lead + 1)
    return tensor.flatten(lead + 1, lead + len(channels))


def _split(tensor: Tensor, axis: int, sizes: list[int]) -> Tensor:
    """One dimension as several."""
    return tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


def from_channels_first(tensor: Tensor, letters: str) -> Tensor:
    """(N, C, *S) in the order of `letters`, the labels of an input; a view."""
    channels_first = f"BC{space_and_time(letters)}"
    if "C" not in letters:
        tensor, channels_first = tensor.squeeze(1), channels_first.replace("C", "")
    return tensor.permute(permutation(channels_first, letters))


def refit(
    layout: Layout, shape: tuple[int, ...], rows: int, before: Extent, now: Extent
) -> Layout | None:
    """`layout`, read of one input of extent `before`, for `shape`, `rows` inputs of extent `now`.

    None if the first dimension is not that of so many inputs, or if the tokens of `shape` are no
    grid in the new proportions.
    """
    if len(shape) != len(layout.letters):
        return None
    grid = list(layout.grid)
    frames, rest = divmod(shape[layout.letters.index("B")], rows)
    if rest or (layout.frames is None and frames != 1):
        return None
    if layout.frames is not None and before.time is not None:
        grid[before.time] = frames
    axes = layout.axes(before)
    if layout.is_tokens:
        tokens = shape[layout.letters.index("T")] - layout.prefix_tokens
        cells = _token_grid(layout, axes, tokens, before, now)
        if cells is None:
            return None
    else:
        cells = [size for size, a in zip(shape, layout.letters, strict=True) if a in "ST"]
    for axis, size in zip(axes, cells, strict=True):
        grid[axis] = size
    return replace(layout, grid=tuple(grid), frames=None if layout.frames is None else frames)


def _token_grid(
    layout: Layout, axes: list[int], tokens: int, before: Extent, now: Extent
) -> list[int] | None:
    """The grid of so many tokens that is nearest to the layout's, scaled to the new extent."""
    if len(axes) == 1 or before.size == now.size:
        known = [layout.grid[axis] for axis in axes]
        return [tokens] if len(axes) == 1 and tokens > 0 else _only(known, tokens)
    expected = [layout.grid[axis] * now.size[axis] / before.size[axis] for axis in axes]
    near = [range(max(1, math.floor(cells) - 1), math.ceil(cells) + 2) for cells in expected]
    grids = [grid for grid in itertools.product(*near) if math.prod(grid) == tokens]
    return list(min(grids, key=lambda grid: math.dist(grid, expected))) if grids else None


def _only(grid: list[int], tokens: int) -> list[int] | None:
    return grid if math.prod(grid) == tokens else None
