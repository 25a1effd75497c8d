"""The engine's front door: one model replica, ready to explain."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from camserve.engine.accepted_inputs import AcceptedInputs, labels_of
from camserve.engine.attributions import Attribution
from camserve.engine.budget import Budget
from camserve.engine.computation import Computation
from camserve.engine.evaluation import ScoreOf
from camserve.engine.exclusion import tracing
from camserve.engine.execution.activations import Recall
from camserve.engine.execution.execution import Execution, RunBackbone
from camserve.engine.execution.split import split_network
from camserve.engine.execution.tracing import NotSplittable
from camserve.engine.execution.verification import Verification
from camserve.engine.fair_lock import FairLock
from camserve.engine.head import ordinary_autograd
from camserve.engine.introspection import FeatureTap, introspect
from camserve.engine.layouts import Extent, Layout, from_channels_first
from camserve.engine.methods.finer import Finer
from camserve.engine.plan import Plan, check_choices
from camserve.engine.predictions import Prediction
from camserve.engine.preparation import placement, prepare
from camserve.engine.quantization import quantize_weights
from camserve.engine.recurrence import PlainRecurrence
from camserve.engine.reporting import Named, OutputScores
from camserve.engine.reports import ModelReport
from camserve.engine.reweighting import Reweighted
from camserve.engine.scores import Reader
from camserve.engine.settling import check_targets
from camserve.engine.targets import Target
from camserve.errors import NotExplainable, ShapeMismatch
from camserve.vocabulary import Method, Precision

__all__ = ["Explainer"]

NO_FINER = Finer()

PARTS_ERROR = 1e-4
"""Relative error of a map of a split model, whose operations are the same."""


class Explainer:
    """One replica of one model, ready to explain. Thread-safe: one lock per replica.

    The model belongs to the explainer from now on: it is put in evaluation mode and its weights
    are frozen. `probe`: one input of a shape that the model takes; only its shape counts.
    `input_format`: the labels of its dimensions, one of them B; by default BCT, BCSS or BCSSS, by
    their number. Layers are chosen automatically unless they are named (`report` says which and
    why); `feature_format` and `output_format` label the dimensions of what they return, where the
    automatic reading is not meant. `output_scores`: whether the model ends in logits or in
    probabilities, which is seen of a softmax, but not of a sigmoid. `quantization`: keep the
    weights up to the feature layer as int8; the head stays as it is.
    Raises InvalidInput or InvalidRequest for a probe or format without meaning, LayerNotFound or
    NotExplainable for a named layer that will not do.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Tensor,
        *,
        input_format: str | None = None,
        feature_layer: str | Sequence[str] | None = None,
        feature_format: str | None = None,
        reduction_layer: str | None = None,
        output_format: str | None = None,
        output_scores: OutputScores | None = None,
        quantization: Literal["int8"] | None = None,
    ) -> None:
        self._lock = FairLock()
        self._recurrence = PlainRecurrence()
        self._model = model
        labels = labels_of(probe, input_format)
        prepare(model)
        device, dtype = placement(model, probe)
        self._accepted = AcceptedInputs(labels, tuple(probe.shape), device, dtype)
        self._feature_format = feature_format
        named = Named(_names(feature_layer), reduction_layer, output_format, output_scores)
        with ordinary_autograd():
            example = torch.zeros(probe.shape, device=device, dtype=dtype)
            self._known = self._recurrence.run(lambda: introspect(model, example, labels, named))
        for layer in named.feature_layers:
            self._known.tap(layer, feature_format)
        self._known.reduction(self.report.reduction_layer)
        if quantization is not None:
            quantize_weights(self._known.modules_up_to(self.report.feature_layers))
        self._execution: Execution | None = None

    @property
    def report(self) -> ModelReport:
        """The model's layers, the chosen ones, and the reasons."""
        return self._known.report

    @property
    def model(self) -> nn.Module:
        """The network, which belongs to the explainer."""
        return self._model

    @property
    def input_format(self) -> str:
        """Dimension labels of the inputs."""
        return self._accepted.labels

    @property
    def batch_dimension(self) -> int:
        """Which dimension of the inputs counts them."""
        return self._accepted.batch_dimension

    @property
    def device(self) -> torch.device:
        """That of the weights, and of the inputs of a pass."""
        return self._accepted.device

    @property
    def is_split(self) -> bool:
        """Whether backbone and head are run apart, so that either can be had faster."""
        return self._execution is not None

    def split(self) -> Execution:
        """Run backbone and head apart from now on, where the default layers are asked for.

        The same operations on the same weights; seconds, the first time. Raises NotSplittable.
        """
        if self._execution is None:
            if self.report.rows_are_independent is not True:
                raise NotSplittable("it takes one input at a time, or mixes its inputs")
            if self._accepted.dtype != torch.float32:
                raise NotSplittable(f"its weights are {str(self._accepted.dtype)[6:]}")
            plan = replace(self._plan(None), taps=self._taps((), None))
            watched, batch = plan.watched(), self.batch_dimension
            shape = list(self._accepted.probe_shape)
            shape[batch] = 2
            with self.alone_in_process():
                example = torch.zeros(shape, device=self._accepted.device)
                parts = split_network(self._model, example, batch, watched)
            where = (watched.features[0], (watched.reduction, watched.path))
            execution = Execution(parts, batch, *where)
            self._verify(execution)
            self._execution = execution
        return self._execution

    def _verify(self, execution: Execution) -> None:
        """Raises NotSplittable if the parts explain otherwise than the model: its gradient may be
        one that no graph shows."""
        verification = Verification(self, execution)
        try:
            found = verification.agreement(execution, "float32")
        except Exception as error:  # whatever it was, the model works as it is
            raise NotSplittable(f"its parts fail: {type(error).__name__}") from error
        if found.error > PARTS_ERROR:
            raise NotSplittable(
                "its parts have other maps: torch.export does not capture all of it"
            )

    def use_backbone(self, precision: Precision, run: RunBackbone) -> None:
        """Run the backbone so from now on. Raises NotSplittable."""
        self._execution = self.split().with_backbone(precision, run)

    def with_execution(self, execution: Execution | None) -> Explainer:
        """The same explainer, model and lock, that runs its backbone otherwise; None: undivided."""
        other = copy.copy(self)
        other._execution = execution  # noqa: SLF001 - of this class
        return other

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing is explained meanwhile."""
        with self._lock, ordinary_autograd():
            yield

    @contextmanager
    def alone_in_process(self) -> Iterator[None]:
        """The same, and nothing is computed by others, either."""
        with self._lock, tracing(), ordinary_autograd():
            yield

    def extent_of(self, inputs: Tensor) -> Extent:
        """Space and time of inputs in the model's format."""
        return self._accepted.extent_of(inputs)

    def explain(
        self,
        inputs: Tensor,
        targets: Sequence[Sequence[Target]],
        *,
        method: Method = "gradcam",
        feature_layer: str | Sequence[str] | None = None,
        feature_format: str | None = None,
        reduction_layer: str | None = None,
        precision: Precision = "float32",
        channels: int | None = None,
        finer: Finer = NO_FINER,
        budget: Budget | None = None,
        chunk: int = 8,
        weights: Mapping[str, Tensor] | None = None,
        recall: Recall | None = None,
    ) -> list[list[Attribution]]:
        """Attributions of `targets[i]` on input i, in order; `Top` expands in place.

        inputs: N of them in the model's format, moved to its device and dtype. All inputs and
        targets share one forward pass, unless the model mixes its inputs. feature_layer: a module,
        or several, each with a map of its own; `name:path` takes one of several tensors that a
        module returns. Of a module that runs more than once, the last call counts. feature_format:
        the labels of what they return, as in `BSSC` or `BTC:14x14`. reduction_layer: a module, or
        "output", "softmax", "sigmoid". precision: of the network up to the first feature layer.
        channels: of scorecam and ablationcam, how many to use. chunk: of the same, how many
        variants run at once. budget: limits what they may cost. weights: take these instead of the
        model's own, by name. recall: what is known of the inputs' activations from before.
        Raises ShapeMismatch (not one list of targets per input), InvalidInput, InvalidRequest,
        ClassIndexOutOfRange, InvalidExpression, LayerNotFound, OverBudget, or NotExplainable.
        """
        extent = self._check(inputs, targets)
        check_choices(method, precision, channels, chunk)
        plan = replace(
            self._plan(reduction_layer),
            method=method,
            taps=self._taps(_names(feature_layer), feature_format),
            precision=precision,
            finer=finer if method == "finercam" else None,
            channels=channels,
            chunk=self._at_once(chunk),
            budget=budget or Budget(),
        )
        plan.budget.reserve(sum(plan.passes if row else 1 for row in targets))
        # of a network that is split all inputs share one pass
        computation = replace(
            self._computation(extent, weights), recall=recall if self.is_split else None
        )
        explained: list[list[Attribution]] = []
        with self._lock, ordinary_autograd(), self._accepted.blamed_for_their_size(inputs):
            placed = self._accepted.place(inputs)
            for part in torch.split(placed, self._at_once(len(targets)), self.batch_dimension):
                asked = targets[len(explained) :][: part.shape[self.batch_dimension]]
                run = partial(computation.run_and_retry, part, asked, plan)
                explained += self._recurrence.run(run) if any(asked) else [[] for _ in asked]
        return explained

    def passes(
        self,
        method: Method,
        *,
        feature_layer: str | Sequence[str] | None = None,
        feature_format: str | None = None,
        channels: int | None = None,
    ) -> int:
        """Forward passes that `explain` takes for one input, however many targets it has."""
        taps = self._taps(_names(feature_layer), feature_format)
        return replace(self._plan(None), method=method, taps=taps, channels=channels).passes

    def output(self, inputs: Tensor, *, reduction_layer: str | None = None) -> Tensor:
        """(N, C, *D) what the reduction layer returns for N inputs, the classes first.

        Raises InvalidInput, LayerNotFound or NotExplainable.
        """
        plan = self._plan(reduction_layer)
        extent = self._accepted.check(inputs)
        at_once = self._at_once(inputs.shape[self.batch_dimension])
        with self._lock, ordinary_autograd(), self._accepted.blamed_for_their_size(inputs):
            placed = self._accepted.place(inputs)
            parts = torch.split(placed, at_once, self.batch_dimension)
            computation = self._computation(extent)
            return torch.cat([computation.output(part, plan) for part in parts])

    def predict(
        self, inputs: Tensor, *, precision: Precision = "float32", recall: Recall | None = None
    ) -> list[Prediction]:
        """What the model itself returns for N inputs, without a gradient or a hook for a map.

        precision: of the network up to the feature layers, as an explanation has it, so that the
        scores are the same. recall: what is known of the inputs' activations from before. Raises
        InvalidInput or InvalidRequest.
        """
        check_choices("gradcam", precision, None, 1)
        extent = self._accepted.check(inputs)
        ends_backbone = precision != "float32" and bool(self.report.feature_layers)
        taps = self._taps((), None) if ends_backbone else ()
        plan = replace(self._plan("output"), taps=taps, precision=precision)
        at_once = self._at_once(inputs.shape[self.batch_dimension])
        computation = replace(self._computation(extent), recall=recall if self.is_split else None)
        found: list[Prediction] = []
        with self._lock, ordinary_autograd(), self._accepted.blamed_for_their_size(inputs):
            placed = self._accepted.place(inputs)
            for part in torch.split(placed, at_once, self.batch_dimension):
                found += computation.predict(part, plan)
        return found

    def score_of(
        self,
        inputs: Tensor,
        target: Target,
        *,
        reduction_layer: str | None = None,
        precision: Precision = "float32",
        budget: Budget | None = None,
        chunk: int = 8,
    ) -> ScoreOf:
        """The target's scalar as a function of (m, C, *S) inputs, settled on one input.

        inputs: one of them, in the model's format; it decides what `Top(1)`, the best other class
        or the predicted region mean. precision: of the network up to the feature layers. chunk:
        how many run at once. Raises as `explain` does.
        """
        plan = replace(
            self._plan(reduction_layer),
            taps=() if precision == "float32" else self._taps((), None),  # where the head begins
            precision=precision,
            chunk=self._at_once(chunk),
            budget=budget or Budget(),
        )
        extent = self._check(inputs, [[target]])
        computation = self._computation(extent)
        with self._lock, ordinary_autograd(), self._accepted.blamed_for_their_size(inputs):
            settled = computation.settle(self._accepted.place(inputs), target, plan)

        def score_of(variants: Tensor) -> Tensor:
            placed = self._accepted.place(from_channels_first(variants, self.input_format))
            with self._lock, ordinary_autograd():
                return computation.counted_scores(placed, settled, plan)

        return score_of

    def _taps(self, layers: Sequence[str], feature_format: str | None) -> tuple[FeatureTap, ...]:
        """Where the named layers return what is explained, or the chosen ones.

        Raises LayerNotFound, InvalidRequest, NotExplainable.
        """
        if not (layers or self.report.feature_layers):
            raise NotExplainable(f"no feature layer: {self.report.feature_reason}")
        if not layers:
            layers = self.report.feature_layers
            feature_format = feature_format or self._feature_format
        return tuple(self._known.tap(layer, feature_format) for layer in layers)

    def _at_once(self, asked: int) -> int:
        """How many inputs may share a forward pass."""
        return asked if self.report.rows_are_independent else 1

    def _plan(self, reduction_layer: str | None) -> Plan:
        reduction = reduction_layer or self.report.reduction_layer
        tap = self._known.reduction(reduction)
        reader = Reader(reduction, tap.letters, tap.probabilities)
        return Plan(reduction=tap.module, path=tap.path, reader=reader)

    def _computation(
        self, extent: Extent, weights: Mapping[str, Tensor] | None = None
    ) -> Computation:
        return Computation(
            model=self._model,
            forward=self._model if weights is None else Reweighted(self._model, weights),
            device=self._accepted.device,
            input_layout=Layout(self.input_format, extent.size),
            before=self._known.extent,
            now=extent,
            execution=self._execution,
        )

    def _check(self, inputs: Tensor, targets: Sequence[Sequence[Target]]) -> Extent:
        """The inputs' space and time."""
        extent = self._accepted.check(inputs)
        rows = inputs.shape[self.batch_dimension]
        if len(targets) != rows:
            raise ShapeMismatch(f"{rows} inputs need as many lists of targets, not {len(targets)}")
        check_targets(targets)
        return extent


def _names(layer: str | Sequence[str] | None) -> tuple[str, ...]:
    if layer is None:
        return ()
    return (layer,) if isinstance(layer, str) else tuple(layer)
