"""Targets settled on one input: which class is meant, against which other, which positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from camserve.engine import reductions
from camserve.engine.expressions import evaluate
from camserve.engine.methods.finer import Finer, finer_score, most_similar_classes
from camserve.engine.targets import ClassIndex, Reduction, Settled, Target, Top
from camserve.errors import InvalidRequest
from camserve.expressions import Expression
from camserve.vocabulary import REDUCTIONS_OF_LOGITS

__all__ = ["check_targets", "class_total", "settle"]


def check_targets(targets: Sequence[Sequence[Target]]) -> None:
    """Raises InvalidRequest for what no output could have."""
    for target in (target for row in targets for target in row):
        if isinstance(target, Reduction):
            reductions.check_reduction(target)
        elif isinstance(target, Top) and target.k < 1:
            raise InvalidRequest(f"top: at least 1, not {target.k}", field="top", minimum=1)


def settle(targets: Sequence[Target], x: Tensor, behind: str, finer: Finer | None) -> list[Settled]:
    """The scalars of one input's targets, in order; `Top` becomes its classes.

    x: (C, *D) of the reduction layer. behind: `softmax` or `sigmoid` if one is put behind it.
    finer: compare each class with similar ones.
    Raises ClassIndexOutOfRange, InvalidRequest.
    """
    x = x.detach()
    totals = x.flatten(1).sum(1) if x.ndim > 1 else x
    settled: list[Settled] = []
    for target in targets:
        match target:
            case Top():
                settled += [_of_class(c, totals, finer) for c in _best(target.k, totals)]
            case Settled():
                settled.append(target)
            case ClassIndex():
                index = reductions.check_class_index(target.index, len(totals))
                settled.append(_of_class(index, totals, finer))
            case _ if finer is not None:
                raise InvalidRequest(
                    "finercam compares a class with similar ones: it takes class_index, "
                    "class_label or top, and no reduction or expression",
                    field="method",
                )
            case Expression():
                settled.append(Settled(partial(evaluate, target)))
            case Reduction():
                settled.append(_of_reduction(target, x, totals, behind))
    return settled


def _best(k: int, totals: Tensor) -> list[int]:
    if k > len(totals):
        raise InvalidRequest(
            f"top {k} is out of range: the model has {len(totals)} classes, 1 to {len(totals)}",
            field="top",
            minimum=1,
            maximum=len(totals),
        )
    best: list[int] = totals.topk(k).indices.tolist()
    return best


def class_total(index: int) -> Settled:
    """The score of a class, of whatever output has it."""
    return Settled(partial(reductions.class_score, class_index=index), index, gathers=True)


def _of_class(index: int, totals: Tensor, finer: Finer | None) -> Settled:
    if finer is None:
        return class_total(index)
    others = most_similar_classes(totals, index, finer.comparisons)
    score = partial(finer_score, class_index=index, others=others, strength=finer.strength)
    return Settled(score, index)


def _of_reduction(target: Reduction, x: Tensor, totals: Tensor, behind: str) -> Settled:
    simple: dict[str, Callable[[Tensor], Tensor]] = {
        "sum": torch.sum,
        "mean": torch.mean,
        "max": torch.max,
        "norm": torch.linalg.vector_norm,
        "entropy": reductions.sigmoid_entropy if behind == "sigmoid" else reductions.entropy,
    }
    of_logits = target.name in REDUCTIONS_OF_LOGITS
    if target.name in simple:
        return Settled(simple[target.name], of_logits=of_logits)
    if target.name == "output":
        return Settled(partial(reductions.output, index=target.index))
    if target.name == "similarity":
        assert target.reference is not None  # noqa: S101 - `check_reduction` asks for it
        return Settled(partial(reductions.similarity, reference=target.reference))
    index = reductions.check_class_index(target.class_index or 0, len(x))
    score: Callable[[Tensor], Tensor]
    match target.name:
        case "class_margin":
            against = target.against
            if against is None:
                against = reductions.best_other(totals, index)
            reductions.check_class_index(against, len(x))
            score = partial(reductions.class_margin, class_index=index, against=against)
        case "segmentation":
            positions = _positions(target, x, index)
            score = partial(reductions.segmentation, class_index=index, positions=positions)
        case "log_odds" if behind != "sigmoid":
            score = partial(reductions.log_odds, class_index=index)
        case _:  # of a sigmoid, the logit is the log-odds
            score = partial(reductions.class_score, class_index=index)
    return Settled(score, index, gathers=target.name == "class_score", of_logits=of_logits)


def _positions(target: Reduction, x: Tensor, class_index: int) -> Tensor | None:
    """Which positions (*D) of a dense output count; None for all."""
    region = target.region
    if x.ndim < 2 or region == "all":
        return None
    if isinstance(region, Tensor):
        return reductions.coverage(region.to(x.device), tuple(x.shape[1:]))
    return x.argmax(0) == class_index
