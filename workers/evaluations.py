"""The `evaluate` block of a request: each map of one input put to the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from torch import Tensor

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import Job, MetricResult
from camserve.engine import Attribution, Budget
from camserve.engine.evaluation import (
    Curve,
    deletion,
    insertion,
    joint_map,
    rank_correlation,
    shuffled_weights,
)
from camserve.engine.layouts import Layout, to_channels_first
from camserve.engine.settling import class_total
from camserve.engine.targets import Settled
from camserve.vocabulary import VIRTUAL_LAYERS, Metric
from workers.models import ResidentModel
from workers.rows import Row, stacked

__all__ = ["evaluate_row"]

_MEANINGS: Final[dict[Metric, str]] = {
    "deletion": "area under the score while positions are removed, the most important first: the "
    "smaller the better",
    "insertion": "area under the score while positions are restored, the most important first: "
    "the larger the better",
    "randomisation": "rank correlation with the map of the same network with shuffled weights: "
    "near 0 is good, near 1 says that the map does not depend on what was learnt",
}
_PROBABILITIES: Final = {"classification": "softmax", "multi-label": "sigmoid"}


def evaluate_row(
    model: ResidentModel,
    row: Row,
    attributions: Sequence[Attribution],
    budget: Budget,
    at_once: int,
) -> list[tuple[MetricResult, ...]]:
    """What the metrics say of each map of one input; nothing where none was asked for.

    at_once: variants of the input that share a forward pass.
    """
    asked = row.job.job.evaluate
    if asked is None:
        return [() for _ in attributions]
    test = _Test(model, row, attributions, budget, at_once)
    return [
        tuple(test.measure(metric, place) for metric in asked.metrics)
        for place in range(len(attributions))
    ]


class _Test:
    """The metrics of one row. The network with shuffled weights is explained once for all."""

    def __init__(
        self,
        model: ResidentModel,
        row: Row,
        attributions: Sequence[Attribution],
        budget: Budget,
        at_once: int,
    ) -> None:
        self._model = model
        self._job = row.job.job
        self._attributions = attributions
        self._budget = budget
        self._at_once = at_once
        explainer = model.explainer
        self._inputs = stacked([row.tensor], model)
        self._extent = explainer.extent_of(self._inputs)

    def measure(self, metric: Metric, place: int) -> MetricResult:
        attribution = self._attributions[place]
        cam = joint_map(attribution.maps, self._extent.size)
        if metric == "randomisation":
            other = joint_map(self._with_shuffled_weights[place].maps, self._extent.size)
            return _result(metric, rank_correlation(cam, other))
        curve = self._curve(metric, attribution, cam)
        return _result(metric, curve.area, curve.scores)

    def _curve(self, metric: Metric, attribution: Attribution, cam: Tensor) -> Curve:
        job, explainer = self._job, self._model.explainer
        assert job.evaluate is not None  # noqa: S101 - the caller has asked for it
        target, layer = _curve_score(job, attribution, self._model.card)
        score_of = explainer.score_of(
            self._inputs,
            target,
            reduction_layer=layer,
            precision=job.precision,
            budget=self._budget,
            chunk=self._at_once,
        )
        layout = Layout(explainer.input_format, self._extent.size)
        one = to_channels_first(self._inputs, layout, self._extent)[0].float()
        measure = deletion if metric == "deletion" else insertion
        return measure(
            score_of,
            one,
            cam,
            steps=job.evaluate.steps,
            baseline=job.evaluate.baseline,
            chunk=self._at_once,
        )

    @cached_property
    def _with_shuffled_weights(self) -> list[Attribution]:
        """The same scalars of the same input: what was settled stays so."""
        job, explainer = self._job, self._model.explainer
        (found,) = explainer.explain(
            self._inputs,
            [[one.target for one in self._attributions]],
            method=job.method,
            feature_layer=job.feature_layers or None,
            feature_format=job.feature_format,
            reduction_layer=job.reduction_layer,
            precision=job.precision,
            channels=job.method_options.channels,
            budget=self._budget,
            chunk=self._at_once,
            weights=shuffled_weights(explainer.model),
        )
        return found


def _curve_score(
    job: Job, attribution: Attribution, card: ResolvedCard
) -> tuple[Settled, str | None]:
    """Which score a curve follows, and where it is read: of a class its probability, so that areas
    compare; else what the map explains."""
    target, layer = attribution.target, job.reduction_layer
    if target.class_index is None or not (target.gathers or job.method == "finercam"):
        return target, layer
    if (layer or card.reduction_layer) in VIRTUAL_LAYERS and card.scores != "probabilities":
        layer = _PROBABILITIES.get(card.task, layer)
    return class_total(target.class_index), layer


def _result(metric: Metric, value: float, curve: tuple[float, ...] = ()) -> MetricResult:
    finite = math.isfinite(value) and all(map(math.isfinite, curve))
    return MetricResult(
        metric=metric,
        value=value if finite else None,
        curve=curve if finite else (),
        meaning=_MEANINGS[metric],
    )
