"""What to explain: the scalar whose gradient makes the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from camserve.expressions import Expression

__all__ = ["ClassIndex", "Reduction", "Region", "Settled", "Target", "Top"]


@dataclass(frozen=True)
class ClassIndex:
    """The score of one class, counted from 0; summed over the space of a dense output."""

    index: int


@dataclass(frozen=True)
class Top:
    """The `k` best classes of this very input, best first: `k` attributions."""

    k: int


Region = Literal["predicted", "all"] | Tensor
"""Which positions of a dense output count: those where the class is the most probable one, all, or
a bool mask over the input's space and time."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """A named scalar of the reduction layer's output; `REDUCTIONS` lists names and parameters.

    region: of `segmentation`, `predicted` if None. reference: of `similarity`, as many numbers as
    the output has.
    """

    name: str
    class_index: int | None = None
    against: int | None = None
    index: int | None = None
    region: Region | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Settled:
    """One scalar of one input's output (C, *D), made concrete: which class is meant, against which
    other, which positions. It stays the same function of the output while the input or the
    weights are changed.

    score: what it is. class_index: the class, for a target that names or finds one. gathers: the
    score is that class's total, which is looked up for a whole batch at once. of_logits: the score
    is a function of the logits, also where a softmax or sigmoid is put behind them.
    """

    score: Callable[[Tensor], Tensor]
    class_index: int | None = None
    gathers: bool = False
    of_logits: bool = False


Target = ClassIndex | Top | Reduction | Expression | Settled
"""`Expression`: a scalar in a language of its own, `camserve.expressions.parse("x[3] - x[5]")`.
`Settled`: what an attribution says that it explains."""
