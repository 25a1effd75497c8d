"""The named reductions: each a differentiable scalar of one observation's reduction-layer output.

`x` is (C, *D) without the batch: C classes or values, D the remaining space or time of a dense
output (empty for a classifier). Every function returns a tensor without dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn import functional

from camserve.engine.targets import Reduction
from camserve.errors import ClassIndexOutOfRange, InvalidRequest
from camserve.vocabulary import REDUCTIONS

__all__ = [
    "best_other",
    "check_class_index",
    "check_reduction",
    "class_margin",
    "class_score",
    "coverage",
    "entropy",
    "log_odds",
    "output",
    "segmentation",
    "sigmoid_entropy",
    "similarity",
]


def check_reduction(reduction: Reduction) -> None:
    """Raises InvalidRequest for an unknown name, a missing or a superfluous parameter."""
    parameters = REDUCTIONS.get(reduction.name)
    if parameters is None:
        raise InvalidRequest(
            f"there is no reduction {reduction.name!r}: there are {', '.join(REDUCTIONS)}",
            reductions=list(REDUCTIONS),
        )
    takes = (*parameters.required, *parameters.optional)
    for field in fields(reduction)[1:]:
        given = getattr(reduction, field.name) is not None
        if field.name in parameters.required and not given:
            raise InvalidRequest(
                f"reduction {reduction.name!r} needs {field.name}", field=field.name
            )
        if given and field.name not in takes:
            raise InvalidRequest(
                f"reduction {reduction.name!r} does not take {field.name}: it takes "
                f"{' and '.join(takes) or 'no parameters'}",
                field=field.name,
            )


def check_class_index(index: int, classes: int) -> int:
    """`index` if 0 <= index < classes. Raises ClassIndexOutOfRange (negative indices too)."""
    if not 0 <= index < classes:
        raise ClassIndexOutOfRange(index, classes)
    return index


def class_score(x: Tensor, class_index: int) -> Tensor:
    """Sum over D of x[class_index]."""
    return x[class_index].sum()


def class_margin(x: Tensor, class_index: int, against: int) -> Tensor:
    """class_score(class_index) - class_score(against). Raises InvalidRequest for equal classes."""
    if against == class_index:
        raise InvalidRequest(f"class_margin of class {class_index} against itself is always 0")
    return x[class_index].sum() - x[against].sum()


def best_other(totals: Tensor, class_index: int) -> int:
    """The class with the largest of the totals (C,) but for `class_index`."""
    if len(totals) == 1:
        raise InvalidRequest("class_margin needs another class: the model has one output")
    others = totals.detach().clone()
    others[class_index] = -torch.inf
    return int(others.argmax())


def log_odds(x: Tensor, class_index: int) -> Tensor:
    """log(p / (1 - p)) of the softmax p of logits x: x_c - log sum_{j != c} exp x_j, summed over D.

    A single logit is its own log-odds (of its sigmoid).
    """
    if len(x) == 1:
        return x[0].sum()
    others = torch.cat([x[:class_index], x[class_index + 1 :]])
    return (x[class_index] - others.logsumexp(0)).sum()


def segmentation(x: Tensor, class_index: int, positions: Tensor | None) -> Tensor:
    """Sum of x[class_index] over the positions (*D) that are true, or all of them for None.

    Seg-Grad-CAM (Vinogradova et al. 2020, eq. 1). Raises InvalidRequest if x is not dense.
    """
    if x.ndim < 2:
        raise InvalidRequest(
            "reduction 'segmentation' needs a dense output, a score for each class and position: "
            "for a single score use class_index"
        )
    scores = x[class_index]
    return scores.sum() if positions is None else (scores * positions.to(scores)).sum()


def coverage(region: Tensor, size: tuple[int, ...]) -> Tensor:
    """A bool mask over the input's space (*S) on the grid `size` of a dense output.

    A cell counts if the region covers half of it or more; if no cell is covered so far, those that
    are covered the most do, so that a point is the cell it lies in. Raises InvalidRequest if the
    numbers of dimensions differ, or if the region is empty.
    """
    if region.ndim != len(size):
        raise InvalidRequest(
            f"a region of {region.ndim} dimensions does not lie in an output of {len(size)}",
            field="region",
        )
    if not bool(region.any()):
        raise InvalidRequest(
            "the region is empty: it holds no position of the input", field="region"
        )
    if tuple(region.shape) == size:
        return region.bool()
    shares = _POOLS[len(size)](region.float()[None, None], size)[0, 0]
    return shares >= min(0.5, float(shares.max()))


_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


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


def sigmoid_entropy(x: Tensor) -> Tensor:
    """-sum_c (p_c log p_c + (1 - p_c) log(1 - p_c)) in nats, p the sigmoid of logits x."""
    return -(
        x.sigmoid() * functional.logsigmoid(x) + (-x).sigmoid() * functional.logsigmoid(-x)
    ).sum()


def similarity(x: Tensor, reference: Tensor) -> Tensor:
    """Cosine of the angle between x and the reference, both as vectors; 0 if one of them is 0.

    Raises InvalidRequest if they have different numbers of values.
    """
    if x.numel() != reference.numel():
        raise InvalidRequest(
            f"the reference has {reference.numel()} values, the output {x.numel()}: they must be "
            "as many",
            field="reference",
        )
    return functional.cosine_similarity(x.flatten(), reference.flatten().to(x), dim=0)
