"""Reads the shapes of a forward pass, in execution order, as feature maps or as something else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from camserve.engine.layouts import Layout, grids_of, proportion_error

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

    `extent`: space or time of the input, `batch`: its first dimension. What came before decides
    what a shape means: a grid seen as (B, C, 14, 14) explains 1 + 196 tokens, and once there are
    197 tokens, (B, 12, 197, 197) is attention and not a picture.
    """

    extent: tuple[int, ...]
    batch: int
    grids: list[tuple[int, ...]] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)
    familiar: str = "BC"  # the first two letters of the last map that could be read in one way
    prefix: int = 0  # of the last tokens that could be read in one way

    def read(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """The reading of a module's output; updates the memory."""
        if not shape or shape[0] != self.batch:
            return Refusal(f"the first dimension of {cross(shape)} is not the batch")
        if len(shape) < 3 or 0 in shape:
            return Refusal(f"{cross(shape)} has neither space nor time")
        if len(shape) == len(self.extent) + 2:
            return self._read_map(shape)
        if len(shape) == 3:
            return self._read_tokens(shape)
        return Refusal(f"{cross(shape)} is no map of {len(self.extent)} dimensions")

    def _read_map(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """(B, C, *S) or (B, *S, C), whichever is in proportion to the input."""
        letters = "T" if len(self.extent) == 1 else "S" * len(self.extent)
        first = Layout(f"BC{letters}", shape[2:])
        last = Layout(f"B{letters}C", shape[1:-1])
        if last.is_tokens and (prefix := self._prefix_before_line(shape[1])):
            last = replace(last, grid=(shape[1] - prefix,), prefix_tokens=prefix)
        if first.grid not in self.grids and self.tokens.intersection(first.grid):
            return Refusal(f"{cross(shape)} is attention between tokens, not a map")
        if max(first.grid) == 1 or (len(self.extent) > 1 and max(last.grid) == 1):
            # pooled: its few channels must not pass for a grid, as (1, 2, 1, 1) for one of 2x1
            return Refusal("it has a single position")
        errors = [(self._error(layout.grid), layout) for layout in (first, last)]
        fitting = [(error, layout) for error, layout in errors if error is not None]
        if not fitting:
            return self._out_of_proportion(first)
        layout = self._best(fitting)
        if len(fitting) == 1:
            self.familiar = layout.letters[:2]
        self._remember(layout)
        return layout

    def _read_tokens(self, shape: tuple[int, ...]) -> Layout | Refusal:
        """(B, T, C), T = prefix tokens + the positions of a grid."""
        count = shape[1]
        if shape[2] == 1:
            return Refusal("it has a single position")  # (B, C, 1): pooled tokens
        choices = self._token_choices(count)
        exact = [layout for layout in choices if not layout.prefix_tokens]
        usual = [layout for layout in choices if layout.prefix_tokens == self.prefix]
        for narrower in (exact, usual, choices):
            if len(narrower) == 1:
                self.prefix = narrower[0].prefix_tokens
                self.tokens.add(count)
                self._remember(narrower[0])
                return narrower[0]
        if not choices:
            return Refusal(f"{count} tokens are no grid in proportion to {cross(self.extent)}")
        self.tokens.add(count)
        named = " or ".join(
            f"{layout.prefix_tokens} prefix tokens and a {cross(layout.grid)} grid"
            for layout in choices
        )
        return Refusal(f"{count} tokens are ambiguous: {named}; name another layer")

    def _token_choices(self, count: int) -> list[Layout]:
        """Seen grids behind a few prefix tokens; grids of whole strides without any."""
        choices = {
            Layout("BTC", grid, count - math.prod(grid))
            for grid in self.grids
            if 0 <= count - math.prod(grid) <= MOST_PREFIX_TOKENS
        }
        choices |= {
            Layout("BTC", grid)
            for grid in grids_of(count, self.extent)
            if not self.grids or any(_is_coarser(grid, seen) for seen in self.grids)
        }
        return sorted(choices, key=lambda layout: (layout.prefix_tokens, layout.grid))

    def _prefix_before_line(self, count: int) -> int:
        """Prefix tokens of a 1-D sequence: only on top of a length seen before."""
        if (count,) in self.grids:
            return 0
        extra = [count - grid[0] for grid in self.grids]
        return min((n for n in extra if 0 < n <= 2), default=0)

    def _error(self, grid: tuple[int, ...]) -> float | None:
        if len(grid) > 1:
            return proportion_error(grid, self.extent)
        # every length is in proportion to a line: ask for a whole stride, within one cell
        (cells,), (size,) = grid, self.extent
        if cells < 2 or cells > size + 1:
            return None
        error = abs(cells - size / max(1, round(size / cells)))
        return error if error <= 1 else None

    def _best(self, fitting: list[tuple[float, Layout]]) -> Layout:
        """The nearer to the input's proportions; else the order that the model used before."""
        errors = [error for error, _ in fitting]
        if len(fitting) == 2 and abs(errors[0] - errors[1]) <= CLEARLY_CELLS:
            same = [layout for _, layout in fitting if layout.letters[:2] == self.familiar]
            return (same or [fitting[0][1]])[0]
        return min(fitting, key=lambda pair: pair[0])[1]

    def _remember(self, layout: Layout) -> None:
        if layout.grid not in self.grids:
            self.grids.append(layout.grid)

    def _out_of_proportion(self, layout: Layout) -> Refusal:
        reason = f"{cross(layout.grid)} is out of proportion to the input's {cross(self.extent)}"
        return Refusal(reason, fallback=layout)


def _is_coarser(grid: tuple[int, ...], seen: tuple[int, ...]) -> bool:
    """Whether a whole stride makes `grid` of `seen`, rounding up or down."""
    stride = max(1, round(max(seen) / max(grid)))
    pairs = list(zip(grid, seen, strict=True))
    return all(cells == size // stride for cells, size in pairs) or all(
        cells == -(-size // stride) for cells, size in pairs
    )


def cross(shape: tuple[int, ...]) -> str:
    """`8x8`."""
    return "x".join(map(str, shape)) or "()"
