"""From the reduction layer's output to the scalars of many targets, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.engine.gradients import vector_jacobian
from camserve.engine.methods.finer import Finer
from camserve.engine.nested import split_path
from camserve.engine.precision import is_half
from camserve.engine.score_layout import class_dimension_first
from camserve.engine.settling import settle
from camserve.engine.targets import Settled, Target
from camserve.errors import NotExplainable

__all__ = ["Reader", "Scores", "rows_of", "score_targets", "scores_of"]

SATURATED_WITHIN = 1e-6
"""1 - p below which float32 knows 1 - p to one digit only (its spacing at 1 is 6e-8)."""


@dataclass(frozen=True)
class Reader:
    """How the reduction layer's output is read: its name, the labels of its dimensions, and
    whether the scores are probabilities, of a softmax or sigmoid put behind it or its own."""

    layer: str
    letters: str
    probabilities: bool = False

    @property
    def behind(self) -> str:
        """Of a softmax or sigmoid that is put behind the logits, its name."""
        name, _ = split_path(self.layer)
        return name if name in ("softmax", "sigmoid") else ""

    def widened(self, output: Tensor) -> Tensor:
        """A leaf for the head's last step: float64 behind a virtual layer, because in float32
        1 - p is lost near 1 and with it the gradient p (1 - p); float32 for half precision."""
        if self.behind:
            return output.detach().double()
        return output.detach().float() if is_half(output.dtype) else output.detach().clone()

    def logits(self, output: Tensor) -> Tensor:
        """(N, C, *D)."""
        return class_dimension_first(output, self.letters)

    def scores(self, logits: Tensor) -> Tensor:
        """(N, C, *D): probabilities behind a virtual layer."""
        if self.behind == "softmax":
            return logits.softmax(1)
        return logits.sigmoid() if self.behind == "sigmoid" else logits


@dataclass(frozen=True)
class Scores:
    """All scores of a batch. Target t of row i is in slot t: slots share one backward pass.

    `leaf`: the widened output; `sums`: (K,) sum over the rows of slot k's scores, connected to the
    leaf; rows are independent, so the sum has the per-row gradients.
    """

    targets: list[list[Settled]]
    values: list[list[float]]
    saturated: list[list[bool]]
    leaf: Tensor
    sums: Tensor
    dtype: torch.dtype

    def cotangents(self) -> Tensor:
        """(K, *output.shape), the gradient of each slot's sum in the reduction layer's output.

        Raises NotExplainable if no score depends on it.
        """
        unit = torch.eye(len(self.sums)).to(self.sums)
        found = vector_jacobian(self.sums, [self.leaf], unit)
        if found is None:
            raise NotExplainable("no score depends on the reduction layer's output")
        return found[0].to(self.dtype)


def score_targets(
    output: Tensor,
    targets: Sequence[Sequence[Target]],
    reader: Reader,
    finer: Finer | None = None,
) -> Scores:
    """Scores of `targets[i]` on row i of the reduction layer's output.

    Raises ClassIndexOutOfRange, InvalidRequest, or NotExplainable for an output without batch.
    """
    leaf = reader.widened(output).requires_grad_()
    logits = rows_of(leaf, reader, len(targets))
    x = reader.scores(logits)
    settled = [settle(row, x[i], reader.behind, finer) for i, row in enumerate(targets)]
    flat = [(i, target) for i, row in enumerate(settled) for target in row]
    scores = scores_of(flat, x, logits)
    slots = torch.tensor([slot for row in settled for slot in range(len(row))], device=x.device)
    sums = scores.new_zeros(max(map(len, settled))).index_add(0, slots, scores)
    values = iter(scores.tolist())
    rows = [[next(values) for _ in row] for row in settled]
    return Scores(settled, rows, _saturated(settled, rows, reader), leaf, sums, output.dtype)


def rows_of(output: Tensor, reader: Reader, count: int) -> Tensor:
    """(N, C, *D) of `count` inputs. Raises NotExplainable for an output without a batch."""
    if output.ndim == 0 or len(reader.letters) != output.ndim:
        raise NotExplainable(
            f"the reduction layer returns {tuple(output.shape)} for {count} inputs: its first "
            "dimension must be the batch; choose another reduction layer"
        )
    logits = reader.logits(output)
    if len(logits) != count:
        raise NotExplainable(
            f"the reduction layer returns {tuple(output.shape)} for {count} inputs: its first "
            "dimension must be the batch; choose another reduction layer"
        )
    return logits


def scores_of(flat: Sequence[tuple[int, Settled]], x: Tensor, logits: Tensor) -> Tensor:
    """(P,) scores of P (row, target); class scores are gathered in one operation."""
    totals = x.flatten(2).sum(2) if x.ndim > 2 else x  # (N, C)
    classes = [(p, row, one.class_index) for p, (row, one) in enumerate(flat) if one.gathers]
    scores = x.new_zeros(len(flat))
    if classes:
        places, rows, indices = torch.tensor(classes, device=x.device).T
        scores = scores.index_put((places,), totals[rows, indices])
    for place, (row, target) in enumerate(flat):
        if not target.gathers:
            score = target.score((logits if target.of_logits else x)[row])
            scores = scores.index_put((torch.tensor(place, device=x.device),), score.to(scores))
    return scores


def _saturated(
    settled: list[list[Settled]], values: list[list[float]], reader: Reader
) -> list[list[bool]]:
    """Where a class's probability is so near to 1 that hardly any gradient is left."""
    return [
        [
            reader.probabilities and one.gathers and 1 - SATURATED_WITHIN < value <= 1
            for one, value in zip(row, row_values, strict=True)
        ]
        for row, row_values in zip(settled, values, strict=True)
    ]
