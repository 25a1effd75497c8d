"""What to explain: the scalar whose gradient makes the map."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClassIndex", "Reduction", "Target", "Top"]


@dataclass(frozen=True)
class ClassIndex:
    """The score of one class, counted from 0; summed over the space of a dense output."""

    index: int


@dataclass(frozen=True)
class Top:
    """The `k` best classes of this very input, best first: `k` attributions."""

    k: int


@dataclass(frozen=True)
class Reduction:
    """A named scalar of the reduction layer's output; `REDUCTIONS` lists names and parameters."""

    name: str
    class_index: int | None = None
    against: int | None = None
    index: int | None = None


Target = ClassIndex | Top | Reduction
