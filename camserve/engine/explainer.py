"""The engine's front door: one model replica, ready to explain."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camserve.engine.attributions import Attribution, attribute
from camserve.engine.head import HeadForward, forward_head, ordinary_autograd
from camserve.engine.introspection import FeatureTap, introspect
from camserve.engine.layouts import Layout, refit
from camserve.engine.preparation import placement, prepare
from camserve.engine.reports import ModelReport
from camserve.engine.scores import VIRTUAL_LAYERS, check_targets, score_targets
from camserve.engine.targets import Target
from camserve.errors import InvalidInput, LayerNotFound, NotExplainable, ShapeMismatch

__all__ = ["Explainer"]


class Explainer:
    """One replica of one model, ready to explain. Thread-safe: one lock per replica.

    The model belongs to the explainer from now on: it is put in evaluation mode and its weights
    are frozen. `probe`: one input (1, C, *S) of a shape that the model takes; only its shape
    counts. Layers are chosen automatically unless they are named (`report` says which and why).
    Raises LayerNotFound or NotExplainable for a named layer that will not do.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Tensor,
        *,
        feature_layer: str | None = None,
        reduction_layer: str | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._model = model
        prepare(model)
        self._device, self._dtype = placement(model, probe)
        if probe.ndim < 3 or len(probe) != 1:
            raise InvalidInput(f"the probe must be (1, C, *S), not {tuple(probe.shape)}")
        self._probe_shape = tuple(probe.shape)
        with ordinary_autograd():
            example = torch.empty(probe.shape, device=self._device, dtype=self._dtype)
            self._known = introspect(model, example, feature_layer, reduction_layer)
        if feature_layer is not None:
            self._known.tap(feature_layer)
        self._reduction_module(self.report.reduction_layer)

    @property
    def report(self) -> ModelReport:
        """The model's layers, the chosen ones, and the reasons."""
        return self._known.report

    def explain(
        self,
        inputs: Tensor,
        targets: Sequence[Sequence[Target]],
        *,
        feature_layer: str | None = None,
        reduction_layer: str | None = None,
    ) -> list[list[Attribution]]:
        """Attributions of `targets[i]` on `inputs[i]`, in order; `Top` expands in place.

        inputs: (N, C, *S), moved to the model's device and dtype. All rows and targets share one
        forward pass. `reduction_layer`: a module, or "output", "softmax", "sigmoid". Of a module
        that runs more than once, the last call counts.
        Raises ShapeMismatch (not one list of targets per input), InvalidInput, InvalidRequest,
        ClassIndexOutOfRange, LayerNotFound, or NotExplainable.
        """
        self._check(inputs, targets)
        feature = feature_layer or self.report.feature_layer
        reduction = reduction_layer or self.report.reduction_layer
        if feature is None:
            raise NotExplainable(f"no feature layer: {self.report.feature_reason}")
        tap = self._known.tap(feature)
        reduction_module = self._reduction_module(reduction)
        if not any(targets):
            return [[] for _ in targets]
        with self._lock, ordinary_autograd():
            seen = self._forward(inputs, feature, tap, reduction_module)
            if seen.features is None or seen.reduction is None:
                silent = feature if seen.features is None else reduction
                raise NotExplainable(f"layer {silent!r} never ran in the model's forward pass")
            layout = self._layout(tap.layout, seen.features, inputs)
            scores = score_targets(seen.reduction, targets, reduction)
            return attribute(seen.features, seen.reduction, scores, layout)

    def _reduction_module(self, name: str) -> nn.Module | None:
        """None for the model's output, also where a softmax or sigmoid is put behind it."""
        if name in VIRTUAL_LAYERS:
            return None
        try:
            return self._known.module(name)
        except LayerNotFound:
            names = [*VIRTUAL_LAYERS, *self._known.modules]
            raise LayerNotFound(name, names) from None

    def _check(self, inputs: Tensor, targets: Sequence[Sequence[Target]]) -> None:
        expected = self._probe_shape
        if inputs.ndim != len(expected) or inputs.shape[1] != expected[1] or 0 in inputs.shape:
            raise InvalidInput(
                f"the model takes inputs like (N, {', '.join(map(str, expected[1:]))}), "
                f"not {tuple(inputs.shape)}"
            )
        if len(targets) != len(inputs):
            raise ShapeMismatch(
                f"{len(inputs)} inputs need as many lists of targets, not {len(targets)}"
            )
        check_targets(targets)

    def _forward(
        self, inputs: Tensor, feature: str, tap: FeatureTap, reduction: nn.Module | None
    ) -> HeadForward:
        try:
            return forward_head(
                self._model,
                self._placed(inputs),
                feature=self._known.module(feature),
                feature_index=tap.index,
                reduction=reduction,
            )
        except (RuntimeError, ValueError, AssertionError) as error:
            if inputs.shape[2:] == self._probe_shape[2:] or isinstance(
                error, torch.OutOfMemoryError
            ):
                raise
            raise InvalidInput(
                f"the model cannot take an input of shape {tuple(inputs.shape[1:])}: it was loaded "
                f"for {self._probe_shape[1:]} ({error})"
            ) from error

    def _layout(self, layout: Layout, features: Tensor, inputs: Tensor) -> Layout:
        """The layout seen by the probe, for the size of these inputs."""
        now = tuple(inputs.shape[2:])
        fitted = refit(layout, tuple(features.shape), self._probe_shape[2:], now)
        if fitted is None or len(features) != len(inputs):
            raise NotExplainable(
                f"the feature layer returned {tuple(features.shape)} for an input of "
                f"{tuple(inputs.shape)}: no map of the input's proportions"
            )
        return fitted

    def _placed(self, inputs: Tensor) -> Tensor:
        """On the model's device, in its dtype, and fit for autograd."""
        placed = inputs.detach().to(self._device, self._dtype)
        return placed.clone() if placed.is_inference() else placed
