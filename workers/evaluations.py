"""The `evaluate` block of a request: each map of one input put to the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from torch import Tensor

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import Job, MetricResult
from camserve.engine import Attribution, Budget, ClassIndex, Target, Top
from camserve.engine.evaluation import (
    Curve,
    deletion,
    insertion,
    joint_map,
    rank_correlation,
    shuffled_weights,
)
from camserve.engine.layouts import Layout, to_channels_first
from camserve.vocabulary import VIRTUAL_LAYERS, Metric
from workers.models import ResidentModel
from workers.rows import Row

__all__ = ["evaluate_row", "passes_of"]

_MEANINGS: Final[dict[Metric, str]] = {
    "deletion": "area under the score while positions are removed, the most important first: the "
    "smaller the better",
    "insertion": "area under the score while positions are restored, the most important first: "
    "the larger the better",
    "randomisation": "rank correlation with the map of the same network with shuffled weights: "
    "near 0 is good, near 1 says that the map does not depend on what was learnt",
}
_PROBABILITIES: Final = {"classification": "softmax", "multi-label": "sigmoid"}


def passes_of(job: Job, maps: int) -> int:
    """Forward passes that the evaluation of so many maps costs."""
    if job.evaluate is None:
        return 0
    each = sum(
        1 if metric == "randomisation" else job.evaluate.steps + 1
        for metric in job.evaluate.metrics
    )
    return maps * each


def evaluate_row(
    model: ResidentModel, row: Row, attributions: Sequence[Attribution], budget: Budget
) -> list[tuple[MetricResult, ...]]:
    """What the metrics say of each map of one input; nothing where none was asked for.

    Raises OverBudget before the first pass if there are too many.
    """
    asked = row.job.job.evaluate
    if asked is None:
        return [() for _ in attributions]
    budget.reserve(passes_of(row.job.job, len(attributions)))
    test = _Test(model, row, budget)
    targets = _settled(row.targets, attributions)
    return [
        tuple(test.measure(metric, target, one) for metric in asked.metrics)
        for target, one in zip(targets, attributions, strict=True)
    ]


def _settled(targets: Sequence[Target], attributions: Sequence[Attribution]) -> list[Target]:
    """One target for each attribution: `Top` is the classes that it found."""
    settled: list[Target] = []
    for target in targets:
        if isinstance(target, Top):
            found = attributions[len(settled) : len(settled) + target.k]
            settled += [ClassIndex(one.class_index or 0) for one in found]
        else:
            settled.append(target)
    return settled


class _Test:
    """The metrics of one row; shuffled weights are made once for all its maps."""

    def __init__(self, model: ResidentModel, row: Row, budget: Budget) -> None:
        self._model = model
        self._row = row
        self._budget = budget
        explainer = model.explainer
        self._inputs = row.tensor.unsqueeze(explainer.batch_dimension)
        self._extent = explainer.extent_of(self._inputs)

    @cached_property
    def _shuffled(self) -> dict[str, Tensor]:
        return shuffled_weights(self._model.explainer.model)

    def measure(self, metric: Metric, target: Target, attribution: Attribution) -> MetricResult:
        cam = joint_map(attribution.maps, self._extent.size)
        if metric == "randomisation":
            value = rank_correlation(cam, self._with_shuffled_weights(target))
            return _result(metric, value)
        curve = self._curve(metric, target, cam)
        return _result(metric, curve.area, curve.scores)

    def _curve(self, metric: Metric, target: Target, cam: Tensor) -> Curve:
        job = self._row.job.job
        assert job.evaluate is not None  # noqa: S101 - the caller has asked for it
        explainer = self._model.explainer
        score_of = explainer.score_of(
            self._inputs,
            target,
            reduction_layer=_curve_layer(job, target, self._model.card),
            precision=job.precision,
            budget=self._budget,
        )
        layout = Layout(explainer.input_format, self._extent.size)
        one = to_channels_first(self._inputs, layout, self._extent)[0].float()
        measure = deletion if metric == "deletion" else insertion
        return measure(score_of, one, cam, steps=job.evaluate.steps, baseline=job.evaluate.baseline)

    def _with_shuffled_weights(self, target: Target) -> Tensor:
        job = self._row.job.job
        ((other,),) = self._model.explainer.explain(
            self._inputs,
            [[target]],
            method=job.method,
            feature_layer=job.feature_layers or None,
            feature_format=job.feature_format,
            reduction_layer=job.reduction_layer,
            precision=job.precision,
            channels=job.method_options.channels,
            budget=self._budget,
            weights=self._shuffled,
        )
        return joint_map(other.maps, self._extent.size)


def _curve_layer(job: Job, target: Target, card: ResolvedCard) -> str | None:
    """Where the score of a curve is read: a class's probability, so that areas compare; else as
    the map's."""
    asked = job.reduction_layer or card.reduction_layer
    is_class = isinstance(target, ClassIndex)
    if not is_class or asked not in VIRTUAL_LAYERS or card.scores == "probabilities":
        return job.reduction_layer
    return _PROBABILITIES.get(card.task, job.reduction_layer)


def _result(metric: Metric, value: float, curve: tuple[float, ...] = ()) -> MetricResult:
    finite = math.isfinite(value) and all(map(math.isfinite, curve))
    return MetricResult(
        metric=metric,
        value=value if finite else None,
        curve=curve if finite else (),
        meaning=_MEANINGS[metric],
    )
