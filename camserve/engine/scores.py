"""From the reduction layer's output to the scalars of many targets, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.engine.gradients import vector_jacobian
from camserve.engine.reductions import ON_LOGITS, check_class_index, check_reduction, reduce
from camserve.engine.targets import ClassIndex, Reduction, Target, Top
from camserve.errors import InvalidRequest, NotExplainable

__all__ = ["VIRTUAL_LAYERS", "Scores", "check_targets", "score_targets"]

VIRTUAL_LAYERS = ("output", "softmax", "sigmoid")

SATURATED_WITHIN = 1e-6
"""1 - p below which float32 knows 1 - p to one digit only (its spacing at 1 is 6e-8)."""


@dataclass(frozen=True)
class Scores:
    """All scores of a batch. Target t of row i is in slot t: slots share one backward pass.

    `cotangents`: (K, *x.shape), the gradient of the sum of slot k's scores with respect to the
    reduction layer's output x; rows are independent, so the sum has the per-row gradients.
    """

    targets: list[list[ClassIndex | Reduction]]
    values: list[list[float]]
    saturated: list[list[bool]]
    cotangents: Tensor


def check_targets(targets: Sequence[Sequence[Target]]) -> None:
    """Raises InvalidRequest for what no output could have."""
    for target in (target for row in targets for target in row):
        if isinstance(target, Reduction):
            check_reduction(target)
        elif isinstance(target, Top) and target.k < 1:
            raise InvalidRequest(f"top: at least 1, not {target.k}", field="top", minimum=1)


def score_targets(output: Tensor, targets: Sequence[Sequence[Target]], layer: str) -> Scores:
    """Scores of `targets[i]` on row i of the reduction layer's output (N, C, *D).

    `layer` softmax or sigmoid: probabilities, in float64 on the logits, because in float32 1 - p
    is lost near 1 and with it the gradient p (1 - p). Half precision is scored in float32.
    Raises ClassIndexOutOfRange, InvalidRequest, or NotExplainable for an output without batch.
    """
    if output.ndim == 0 or len(output) != len(targets):
        raise NotExplainable(
            f"the reduction layer returns {tuple(output.shape)} for {len(targets)} inputs: its "
            "first dimension must be the batch; choose another reduction layer"
        )
    leaf = _widened(output.detach(), layer).requires_grad_()
    logits = leaf.unsqueeze(1) if leaf.ndim == 1 else leaf
    x = _probabilities(logits, layer)
    totals = x.flatten(2).sum(2) if x.ndim > 2 else x  # (N, C)
    resolved = [_resolve(row, totals[i].detach()) for i, row in enumerate(targets)]
    flat = [(i, slot, target) for i, row in enumerate(resolved) for slot, target in enumerate(row)]
    scores = _score(flat, x, logits, totals, layer)
    slots = torch.tensor([slot for _, slot, _ in flat], device=x.device)
    sums = scores.new_zeros(max(map(len, resolved))).index_add(0, slots, scores)
    cotangents = vector_jacobian(sums, leaf, torch.eye(len(sums)).to(sums))
    if cotangents is None:
        raise NotExplainable("no score depends on the reduction layer's output")
    values = iter(scores.tolist())
    rows = [[next(values) for _ in row] for row in resolved]
    saturated = [
        [
            _is_class(target) and 1 - SATURATED_WITHIN < value <= 1
            for target, value in zip(row, row_values, strict=True)
        ]
        for row, row_values in zip(resolved, rows, strict=True)
    ]
    if any(map(any, saturated)) and not _are_probabilities(x, layer):
        saturated = [[False] * len(row) for row in resolved]
    return Scores(resolved, rows, saturated, cotangents.to(output.dtype))


def _widened(output: Tensor, layer: str) -> Tensor:
    if layer in ("softmax", "sigmoid"):
        return output.double()
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output.clone()


def _probabilities(logits: Tensor, layer: str) -> Tensor:
    if layer == "softmax":
        return logits.softmax(1)
    return logits.sigmoid() if layer == "sigmoid" else logits


def _are_probabilities(x: Tensor, layer: str) -> bool:
    """Whether x comes out of a softmax or sigmoid: a virtual one, or the model's own."""
    if layer in ("softmax", "sigmoid"):
        return True
    x = x.detach()
    return bool((x >= 0).all()) and bool((x.sum(1) - 1).abs().max() < 1e-3)


def _is_class(target: ClassIndex | Reduction) -> bool:
    return isinstance(target, ClassIndex) or target.name == "class_score"


def _resolve(row: Sequence[Target], totals: Tensor) -> list[ClassIndex | Reduction]:
    """A row's targets with `Top` replaced by the classes of that row. totals: (C,)."""
    resolved: list[ClassIndex | Reduction] = []
    for target in row:
        if isinstance(target, Top):
            if target.k > len(totals):
                raise InvalidRequest(
                    f"top {target.k} is out of range: the model has {len(totals)} classes, "
                    f"1 to {len(totals)}",
                    field="top",
                    minimum=1,
                    maximum=len(totals),
                )
            best = totals.topk(target.k).indices.tolist()
            resolved += [ClassIndex(index) for index in best]
        elif isinstance(target, ClassIndex):
            resolved.append(ClassIndex(check_class_index(target.index, len(totals))))
        else:
            resolved.append(target)
    return resolved


def _score(
    flat: Sequence[tuple[int, int, ClassIndex | Reduction]],
    x: Tensor,
    logits: Tensor,
    totals: Tensor,
    layer: str,
) -> Tensor:
    """(P,) scores of P (row, slot, target); class scores are gathered in one operation."""
    classes = [(p, row, t.index) for p, (row, _, t) in enumerate(flat) if isinstance(t, ClassIndex)]
    scores = x.new_zeros(len(flat))
    if classes:
        places, rows, indices = torch.tensor(classes, device=x.device).T
        scores = scores.index_put((places,), totals[rows, indices])
    for place, (row, _, target) in enumerate(flat):
        if isinstance(target, Reduction):
            score = reduce(_read_by(target, x, logits, layer)[row], target)
            scores = scores.index_put((torch.tensor(place, device=x.device),), score)
    return scores


def _read_by(target: Reduction, x: Tensor, logits: Tensor, layer: str) -> Tensor:
    if target.name not in ON_LOGITS:
        return x
    if layer == "sigmoid":
        raise InvalidRequest(
            f"reduction {target.name!r} is defined for a softmax; the log-odds of a sigmoid are "
            "its logit: use reduction layer 'output' and class_score"
        )
    return logits
