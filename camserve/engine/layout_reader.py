"""Reads the shapes of a forward pass, in execution order, as feature maps or as something else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from camserve.engine.evidence import best_shown
from camserve.engine.layouts import Extent, Layout
from camserve.engine.proportions import grids_of, is_coarser, map_error

__all__ = ["LayoutReader", "Refusal", "cross"]

MOST_PREFIX_TOKENS = 16
"""Class, distillation and register tokens: published models have at most 1 + 1 + 8."""

CLEARLY_CELLS = 0.25
"""A reading that is nearer to the input's proportions by this much is the better one."""


@dataclass(frozen=True)
class Refusal:
    """Why a shape is not a feature map.

    `fallback`: the reading for somebody who names the layer all the same.
    """

    reason: str
    fallback: Layout | None = None


@dataclass
class LayoutReader:
    """Reads shapes one after the other and remembers grids and token counts.

    `extent`: space and time of the input, `batch`: how many inputs there are. What came before
    decides what a shape means: a grid seen as (B, C, 14, 14) explains 1 + 196 tokens, and once
    there are 197 tokens, (B, 12, 197, 197) is attention and not a picture. Where a shape leaves it
    open, `evidence` decides if there is any: the change of the tensor when one corner of the input
    is changed (`camserve.engine.evidence`).
    """

    extent: Extent
    batch: int
    grids: list[tuple[int, ...]] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)
    familiar: str = "BC"  # the first two letters of the last map that could be read in one way
    prefix: int = 0  # of the last tokens that could be read in one way
    frames: LayoutReader | None = None  # of a video whose frames are folded into the batch
    evidence: Tensor | None = None  # of the shape that is read now
    was_open: bool = False  # whether the shape read last could be read in several ways

    def read(self, shape: tuple[int, ...], evidence: Tensor | None = None) -> Layout | Refusal:
        """The reading of a module's output; updates the memory."""
        self.evidence, self.was_open = evidence, False
        try:
            return self._reading(shape)
        finally:
            self.evidence = None

    def peek(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """The reading of one more shape, which leaves the memory as it is."""
        return self.copy().read(shape)

    def copy(self) -> LayoutReader:
        """One that knows the same, and learns by itself."""
        frames = self.frames.copy() if self.frames else None
        return replace(self, grids=[*self.grids], tokens={*self.tokens}, frames=frames)

    def _reading(self, shape: tuple[int, ...]) -> Layout | Refusal:
        if shape and shape[0] == self.batch:
            return self._read(shape)
        if shape and self.extent.is_video and shape[0] == self.batch * self._steps:
            return self._read_frames(shape)
        if len(shape) == 3 and shape[1] == self.batch:
            if self.evidence is not None:
                self.evidence = self.evidence.transpose(0, 1)
            swapped = self._read((shape[1], shape[0], shape[2]))
            if isinstance(swapped, Layout) and swapped.letters == "BTC":
                return replace(swapped, letters="TBC")
        return Refusal(f"the first dimension of {cross(shape)} is not the batch")

    def _read(self, shape: tuple[int, ...]) -> Layout | Refusal:
        if len(shape) < 3 or 0 in shape:
            return Refusal(f"{cross(shape)} has neither space nor time")
        if len(shape) == len(self.extent.size) + 2:
            return self._read_map(shape)
        if len(shape) == 3:
            return self._read_tokens(shape)
        return Refusal(f"{cross(shape)} is no map of {len(self.extent.size)} dimensions")

    def _read_map(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """(B, C, *S), (B, *S, C) or (B, T, C, *S), whichever is in proportion to the input."""
        first, *others = self._map_layouts(shape)
        if first.grid not in self.grids and self.tokens.intersection(first.grid):
            return Refusal(f"{cross(shape)} is attention between tokens, not a map")
        if max(first.grid) == 1 or (len(first.grid) > 1 and max(others[0].grid) == 1):
            # pooled: its few channels must not pass for a grid, as (1, 2, 1, 1) for one of 2x1
            return Refusal("it has a single position")
        errors = [(map_error(layout.grid, self.extent), layout) for layout in (first, *others)]
        fitting = [(error, layout) for error, layout in errors if error is not None]
        if not fitting:
            return self._out_of_proportion(first)
        layout = self._best(fitting)
        if len(fitting) == 1:
            self.familiar = layout.letters[:2]
        self._remember(layout)
        return layout

    def _map_layouts(self, shape: tuple[int, ...]) -> list[Layout]:
        """All ways to read a shape of as many dimensions as the input with channels has."""
        letters = self.extent.letters
        first = Layout(f"BC{letters}", shape[2:])
        last = Layout(f"B{letters}C", shape[1:-1])
        if last.is_tokens and (prefix := self._prefix_before_line(shape[1])):
            last = replace(last, grid=(shape[1] - prefix,), prefix_tokens=prefix)
        if not self.extent.is_video:
            return [first, last]
        space = iter(shape[3:])
        grid = tuple(shape[1] if letter == "T" else next(space) for letter in letters)
        return [first, last, Layout(f"BTC{letters.replace('T', '')}", grid)]

    def _read_frames(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """The frames of a video as a batch of pictures."""
        if self.frames is None:
            self.frames = LayoutReader(self.extent.frame, self.batch * self._steps)
        frame = self.frames.read(shape)  # one frame alone shows nothing: no evidence
        if isinstance(frame, Refusal):
            return Refusal(frame.reason)
        space = iter(frame.grid)
        grid = tuple(self._steps if a == "T" else next(space) for a in self.extent.letters)
        layout = replace(frame, grid=grid, frames=self._steps)
        self._remember(layout)
        return layout

    @property
    def _steps(self) -> int:
        """Time steps of the input."""
        return self.extent.size[self.extent.letters.index("T")]

    def _read_tokens(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """(B, T, C), T = prefix tokens + the positions of a grid."""
        count = shape[1]
        if shape[2] == 1:
            return Refusal("it has a single position")  # (B, C, 1): pooled tokens
        choices = self.token_choices(count)
        exact = [layout for layout in choices if not layout.prefix_tokens]
        usual = [layout for layout in choices if layout.prefix_tokens == self.prefix]
        for narrower in (exact, usual, choices):
            if len(narrower) == 1:
                layout = self._of_a_time(narrower[0])
                self.prefix = layout.prefix_tokens
                self.tokens.add(count)
                self._remember(layout)
                return layout
        if not choices:
            return Refusal(f"{count} tokens are no grid in proportion to {cross(self.extent.size)}")
        self.tokens.add(count)
        named = " or ".join(
            f"{layout.prefix_tokens} prefix tokens and a {cross(layout.grid)} grid"
            for layout in choices
        )
        formats = " or ".join(f"BTC:{cross(layout.grid)}" for layout in choices)
        return Refusal(
            f"{count} tokens are ambiguous: {named}; say which as feature_format {formats}, or "
            "name another layer"
        )

    def token_choices(self, count: int) -> list[Layout]:
        """Seen grids behind a few prefix tokens; grids of whole strides without any."""
        choices = {
            Layout("BTC", grid, count - math.prod(grid))
            for grid in self.grids
            if 0 <= count - math.prod(grid) <= MOST_PREFIX_TOKENS
        }
        if not self.extent.is_video:
            choices |= {
                Layout("BTC", grid)
                for grid in grids_of(count, self.extent)
                if not self.grids or any(is_coarser(grid, seen) for seen in self.grids)
            }
        return sorted(choices, key=lambda layout: (layout.prefix_tokens, layout.grid))

    def _prefix_before_line(self, count: int) -> int:
        """Prefix tokens of a 1-D sequence: only on top of a length seen before."""
        if (count,) in self.grids:
            return 0
        extra = [count - grid[0] for grid in self.grids]
        return min((n for n in extra if 0 < n <= 2), default=0)

    def _best(self, fitting: list[tuple[float, Layout]]) -> Layout:
        """The nearest to the input's proportions; else what the evidence says; else the order that
        the model used before. On a line, one length is as good as another."""
        least = min(error for error, _ in fitting)
        near = [
            layout
            for error, layout in fitting
            if error - least <= CLEARLY_CELLS or len(self.extent.size) == 1
        ]
        if len(near) > 1:
            self.was_open = True
            if shown := best_shown(near, self.evidence, self.extent):
                return shown
        same = [layout for layout in near if layout.letters[:2] == self.familiar]
        return (same or near)[0]

    def _of_a_time(self, layout: Layout) -> Layout:
        """Tokens of a video in the order in which they run: by time first, or by place first."""
        time = self.extent.time
        if (
            not self.extent.is_video
            or time is None
            or layout.grid[time] in (1, math.prod(layout.grid))
        ):
            return layout
        self.was_open = True
        orders = [layout, replace(layout, time_last=True)]
        return best_shown(orders, self.evidence, self.extent) or layout

    def _remember(self, layout: Layout) -> None:
        if layout.grid not in self.grids:
            self.grids.append(layout.grid)

    def _out_of_proportion(self, layout: Layout) -> Refusal:
        reason = (
            f"{cross(layout.grid)} is out of proportion to the input's {cross(self.extent.size)}"
        )
        return Refusal(reason, fallback=layout)


def cross(shape: tuple[int, ...]) -> str:
    """`8x8`."""
    return "x".join(map(str, shape)) or "()"
