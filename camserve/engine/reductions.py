"""The named reductions: each a differentiable scalar of one observation's reduction-layer output.

`x` is (C, *D) without the batch: C classes or values, D the remaining space or time of a dense
output (empty for a classifier). Every function returns a tensor without dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from camserve.engine.targets import Reduction
from camserve.errors import ClassIndexOutOfRange, InvalidRequest

__all__ = [
    "ON_LOGITS",
    "REDUCTIONS",
    "Parameters",
    "check_class_index",
    "check_reduction",
    "reduce",
]


@dataclass(frozen=True)
class Parameters:
    """The parameters that a reduction must have, and those that it may have."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


REDUCTIONS: Mapping[str, Parameters] = MappingProxyType(
    {
        "class_score": Parameters(("class_index",)),
        "class_margin": Parameters(("class_index",), ("against",)),
        "log_odds": Parameters(("class_index",)),
        "output": Parameters((), ("index",)),
        "sum": Parameters(),
        "mean": Parameters(),
        "max": Parameters(),
        "norm": Parameters(),
        "entropy": Parameters(),
    }
)

ON_LOGITS = frozenset({"log_odds", "entropy"})
"""Take the softmax by themselves, so they read the logits also where a virtual layer is asked."""


def check_reduction(reduction: Reduction) -> None:
    """Raises InvalidRequest for an unknown name, a missing or a superfluous parameter."""
    parameters = REDUCTIONS.get(reduction.name)
    if parameters is None:
        raise InvalidRequest(
            f"there is no reduction {reduction.name!r}: there are {', '.join(REDUCTIONS)}",
            reductions=list(REDUCTIONS),
        )
    for name in ("class_index", "against", "index"):
        given = getattr(reduction, name) is not None
        if name in parameters.required and not given:
            raise InvalidRequest(f"reduction {reduction.name!r} needs {name}", field=name)
        if given and name not in (*parameters.required, *parameters.optional):
            takes = " and ".join((*parameters.required, *parameters.optional)) or "no parameters"
            raise InvalidRequest(
                f"reduction {reduction.name!r} does not take {name}: it takes {takes}", field=name
            )


def check_class_index(index: int, classes: int) -> int:
    """`index` if 0 <= index < classes. Raises ClassIndexOutOfRange (negative indices too)."""
    if not 0 <= index < classes:
        raise ClassIndexOutOfRange(index, classes)
    return index


def reduce(x: Tensor, reduction: Reduction) -> Tensor:
    """The scalar of a reduction that `check_reduction` has passed.

    Raises ClassIndexOutOfRange, or InvalidRequest where the output has no such value.
    """
    simple: dict[str, Callable[[Tensor], Tensor]] = {
        "sum": torch.sum,
        "mean": torch.mean,
        "max": torch.max,
        "norm": torch.linalg.vector_norm,
        "entropy": entropy,
    }
    if reduction.name in simple:
        return simple[reduction.name](x)
    if reduction.name == "output":
        return output(x, reduction.index)
    class_index = check_class_index(reduction.class_index or 0, len(x))
    if reduction.name == "class_margin":
        return class_margin(x, class_index, reduction.against)
    return log_odds(x, class_index) if reduction.name == "log_odds" else class_score(x, class_index)


def class_score(x: Tensor, class_index: int) -> Tensor:
    """Sum over D of x[class_index]."""
    return x[class_index].sum()


def class_margin(x: Tensor, class_index: int, against: int | None) -> Tensor:
    """class_score(class_index) - class_score(against), by default against the best other class."""
    scores = x.flatten(1).sum(1) if x.ndim > 1 else x
    if against is None:
        if len(x) == 1:
            raise InvalidRequest("class_margin needs another class: the model has one output")
        others = scores.detach().clone()
        others[class_index] = -torch.inf
        against = int(others.argmax())
    check_class_index(against, len(x))
    if against == class_index:
        raise InvalidRequest(f"class_margin of class {class_index} against itself is always 0")
    return scores[class_index] - scores[against]


def log_odds(x: Tensor, class_index: int) -> Tensor:
    """log(p / (1 - p)) of the softmax p of logits x: x_c - log sum_{j != c} exp x_j, summed over D.

    A single logit is its own log-odds (of its sigmoid).
    """
    if len(x) == 1:
        return x[0].sum()
    others = torch.cat([x[:class_index], x[class_index + 1 :]])
    return (x[class_index] - others.logsumexp(0)).sum()


def output(x: Tensor, index: int | None) -> Tensor:
    """x[index], summed over D; the index may be left out where there is one value only."""
    if index is None:
        if len(x) != 1:
            raise InvalidRequest(
                f"the output has {len(x)} values: give index, 0 to {len(x) - 1}",
                field="index",
                minimum=0,
                maximum=len(x) - 1,
            )
        index = 0
    if not 0 <= index < len(x):
        raise InvalidRequest(
            f"output index {index} is out of range: 0 to {len(x) - 1}",
            field="index",
            minimum=0,
            maximum=len(x) - 1,
        )
    return x[index].sum()


def entropy(x: Tensor) -> Tensor:
    """-sum_c p_c log p_c in nats, p the softmax of logits x, summed over D."""
    log_p = x.log_softmax(0)
    return -(log_p.exp() * log_p).sum()
