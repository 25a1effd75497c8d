"""How a split network is run: its backbone as fast as it can be had, its head for autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from camserve.engine.execution.activations import Recall, Row, joined, row_of
from camserve.engine.execution.split import Split
from camserve.engine.head import HeadForward
from camserve.engine.plan import Plan
from camserve.engine.precision import DTYPES, is_half
from camserve.vocabulary import Precision

__all__ = ["Execution", "RunBackbone", "in_precision"]

RunBackbone = Callable[[Tensor], Sequence[Tensor]]
"""Inputs to what crosses the boundary. Runs without a graph and must not write to the inputs."""


@dataclass(frozen=True)
class Execution:
    """A split network, and where the split is: the feature layer's module and which of its tensors,
    the reduction layer's module (None: the model's output) and path.

    backbones: other ways to run the backbone, by precision; without one, its operations are run one
    by one, in half precision under autocast.
    """

    split: Split
    batch: int
    feature: tuple[nn.Module, int]
    reduction: tuple[nn.Module | None, str | None]
    backbones: Mapping[Precision, RunBackbone] = field(default_factory=dict)

    def with_backbone(self, precision: Precision, run: RunBackbone) -> Execution:
        return replace(self, backbones={**self.backbones, precision: run})

    def computes(self, plan: Plan, *, cut: bool) -> bool:
        """Whether this pass of the plan is split where we are, and touches no module on its way."""
        if plan.method in ("ablationcam", "guided-gradcam"):
            return False
        if (plan.reduction, plan.path) != self.reduction:
            return False
        ends_backbone = cut or plan.precision != "float32"
        return not ends_backbone or [(t.module, t.index) for t in plan.taps] == [self.feature]

    def takes(self, inputs: Tensor) -> bool:
        """Whether the graphs are of inputs like these."""
        shape = list(inputs.shape)
        shape[self.batch] = 0
        return tuple(shape) == self.split.shape and inputs.dtype == torch.float32

    def run(
        self, inputs: Tensor, precision: Precision, *, cut: bool, recall: Recall | None = None
    ) -> HeadForward:
        """One pass. cut: the output is differentiable in the features, which are its leaf, or in
        their mean, if that is all that the head reads of them.

        recall: what is known of the inputs does not run again.
        """
        features, *others = self._crossing(inputs, precision, recall)
        head, pooling, pooled = self.split.head, self.split.pooling, None
        given = features
        if cut and pooling is not None:
            with torch.no_grad():
                given = pooling.mean(features)
            given = pooled = given.detach().requires_grad_()
            head = pooling.behind
        elif cut:
            given = features = features.detach().requires_grad_()
        if self.split.writes:  # the map explains the value returned at the boundary
            given, *others = (tensor.clone() for tensor in (given, *others))
        return HeadForward([features], [1], head(given, *others), pooled)

    def _crossing(self, inputs: Tensor, precision: Precision, recall: Recall | None) -> Row:
        if recall is None:
            return self._computed(inputs, precision)
        batches = self.split.batches
        rows = recall.known(precision)
        missing = [index for index, row in enumerate(rows) if row is None]
        if len(missing) == len(rows):
            found = self._computed(inputs, precision)
        elif missing:
            chosen = torch.tensor(missing, device=inputs.device)
            found = self._computed(inputs.index_select(self.batch, chosen), precision)
        else:
            found = ()
        made = {index: row_of(found, place, batches) for place, index in enumerate(missing)}
        recall.keep(precision, made)
        if len(missing) == len(rows):
            return found
        return joined([row or made[index] for index, row in enumerate(rows)], batches)

    def _computed(self, inputs: Tensor, precision: Precision) -> Row:
        run = self.backbones.get(precision) or self.operations(precision)
        with torch.no_grad():
            return tuple(_wide(tensor) for tensor in run(inputs))

    def operations(self, precision: Precision) -> RunBackbone:
        """The backbone, operation by operation."""
        return in_precision(self.split.backbone, precision)


def in_precision(backbone: RunBackbone, precision: Precision) -> RunBackbone:
    """The backbone under autocast, unless it is float32 that is asked for."""
    if precision == "float32":
        return backbone
    dtype = DTYPES[precision]

    def run(inputs: Tensor) -> Sequence[Tensor]:
        # without its cache: a captured graph would read weights that autocast frees at its end;
        # and weights that are frozen are not kept there anyway
        with torch.autocast(inputs.device.type, dtype, cache_enabled=False):
            return backbone(inputs)

    return run


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if is_half(tensor.dtype) else tensor
