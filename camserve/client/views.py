"""What results and explanations say of themselves, whichever client holds them."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

from camserve.contracts.explanations import (
    Computation,
    Explanation,
    MapSummary,
    Progress,
    ResultSummary,
    TargetSummary,
    Timings,
)
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Diagnostic, MetricResult
from camserve.contracts.layers import Layers
from camserve.contracts.states import TERMINAL, State

__all__ = ["ExplanationView", "ResultView"]


class ResultView:
    """One map: one target of one input. `summary` is all that the service says of it."""

    def __init__(self, summary: ResultSummary) -> None:
        self.summary = summary

    def __repr__(self) -> str:
        target = self.target
        what = target.class_label or target.class_index
        what = target.expression or target.reduction if what is None else what
        return f"<{type(self).__name__} input={self.input} {what!r} score={target.score}>"

    @property
    def input(self) -> int:
        """Index of the input, counted from 0."""
        return self.summary.input

    @property
    def input_name(self) -> str | None:
        return self.summary.input_name

    @property
    def target(self) -> TargetSummary:
        """What was explained: class, label, reduction or expression, and its score."""
        return self.summary.target

    @property
    def score(self) -> float | None:
        """The scalar that was differentiated; None if it is not finite."""
        return self.summary.target.score

    @property
    def feature_layer(self) -> Layers:
        return self.summary.feature_layer

    @property
    def reduction_layer(self) -> str:
        return self.summary.reduction_layer

    @property
    def method(self) -> str:
        return self.summary.method

    @property
    def convention(self) -> str:
        return self.summary.convention

    @property
    def signed(self) -> MapSummary:
        """Shape, least and greatest value of the signed map at the feature layer's resolution."""
        return self.summary.map

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What speaks against trusting the map."""
        return self.summary.diagnostics

    @property
    def evaluation(self) -> tuple[MetricResult, ...]:
        return self.summary.evaluation


R = TypeVar("R", bound=ResultView)


class ExplanationView(Generic[R]):
    """An explanation as it was when it was last asked for.

    `document` is all that the service says of it; `results` are empty unless it has succeeded.
    """

    def __init__(self, document: Explanation) -> None:
        self._show(document)

    def _result(self, summary: ResultSummary) -> R:
        raise NotImplementedError

    def _show(self, document: Explanation) -> None:
        self.document = document
        self.results: tuple[R, ...] = tuple(self._result(one) for one in document.results)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}, results: {len(self.results)}>"

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def state(self) -> State:
        return self.document.state

    @property
    def is_finished(self) -> bool:
        """Whether the state is final: with results, if it is `succeeded`."""
        return self.state in TERMINAL

    @property
    def model(self) -> str:
        return self.document.model

    @property
    def model_version(self) -> str:
        return self.document.model_version

    @property
    def created_at(self) -> datetime:
        return self.document.created_at

    @property
    def completed_at(self) -> datetime | None:
        return self.document.completed_at

    @property
    def queue_position(self) -> int | None:
        """How many of its model are before it, while it is queued."""
        return self.document.queue_position

    @property
    def progress(self) -> Progress | None:
        """How far it is, while it runs."""
        return self.document.progress

    @property
    def timings_ms(self) -> Timings:
        return self.document.timings_ms

    @property
    def computation(self) -> Computation | None:
        """Device, precision and cost; None while there is no result."""
        return self.document.computation

    @property
    def error(self) -> FailureMessage | None:
        """Why there is no result; None unless it failed."""
        return self.document.error
