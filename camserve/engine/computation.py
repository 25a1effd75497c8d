"""One explanation from inputs to attributions: forward, scores, maps, and a retry in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from camserve.engine.attributions import (
    Attribution,
    Layer,
    LayerMaps,
    attributions_of,
    gradient_maps,
)
from camserve.engine.diagnostics import Diagnostic
from camserve.engine.execution.activations import Recall
from camserve.engine.execution.execution import Execution
from camserve.engine.gradients import vector_jacobian
from camserve.engine.head import Forward, HeadForward, forward_head
from camserve.engine.layouts import Extent, Layout, refit, to_channels_first
from camserve.engine.methods.guided import GuidedReLUs, guided_grad_cam
from camserve.engine.perturbing import Perturber, perturbed_maps
from camserve.engine.plan import Plan
from camserve.engine.precision import Backbone, casting_head, is_half
from camserve.engine.predictions import Prediction, predictions_of
from camserve.engine.reweighting import Reweighted
from camserve.engine.scores import Scores, rows_of, score_targets, scores_of
from camserve.engine.settling import settle
from camserve.engine.targets import Settled, Target
from camserve.errors import InvalidRequest, NotExplainable

__all__ = ["Computation"]


@dataclass(frozen=True)
class Computation:
    """A network, and inputs of one size to explain with it.

    forward: the model, or the model with other weights. input_layout: labels and extent of the
    inputs. before: extent of the input that the layers were looked up with; now: of these.
    execution: the same network in two parts, for what it can compute. recall: what is known of the
    inputs from earlier.
    """

    model: nn.Module
    forward: Forward
    device: torch.device
    input_layout: Layout
    before: Extent
    now: Extent
    execution: Execution | None = None
    recall: Recall | None = None

    @property
    def batch(self) -> int:
        """The dimension of the inputs that counts them."""
        return self.input_layout.letters.index("B")

    def run_and_retry(
        self, inputs: Tensor, targets: Sequence[Sequence[Target]], plan: Plan
    ) -> list[list[Attribution]]:
        """`run`; what half precision made infinite or NaN is computed again in float32."""
        found = self.run(inputs, targets, plan)
        if plan.precision == "float32" and not is_half(inputs.dtype):
            return found
        bad = [i for i, row in enumerate(found) if any(map(_is_nonfinite, row))]
        if bad:
            chosen = inputs.index_select(self.batch, torch.tensor(bad, device=inputs.device))
            again = self._in_float32(chosen.dtype).run(
                chosen.float(), [targets[i] for i in bad], replace(plan, precision="float32")
            )
            for index, row in zip(bad, again, strict=True):
                found[index] = [_retried(one) for one in row]
        return found

    def run(
        self, inputs: Tensor, targets: Sequence[Sequence[Target]], plan: Plan
    ) -> list[list[Attribution]]:
        """Attributions of `targets[i]` on input i."""
        plan.budget.spend(len(targets))
        seen = self._forward(inputs, plan, recall=self.recall)
        if self.recall is not None:
            plan.budget.spent -= len(self.recall.hits)
        layers = self._layers(seen, plan, len(targets))
        output = _ran(seen.reduction, plan.reader.layer)
        scores = score_targets(output, targets, plan.reader, plan.finer)
        if plan.method in ("scorecam", "ablationcam"):
            perturber = self._perturber(inputs, plan)
            calls = seen.calls if plan.method == "ablationcam" else None
            maps = perturbed_maps(perturber, layers, plan.taps, scores, ablate_in=calls)
        else:
            maps = gradient_maps(layers, output, scores, plan.method)
        if plan.method == "guided-gradcam":
            slopes = self._guided_slopes(inputs, scores, plan)
            return attributions_of(maps, scores, partial(_guided, slopes=slopes))
        return attributions_of(maps, scores)

    def output(self, inputs: Tensor, plan: Plan) -> Tensor:
        """(N, C, *D) of the reduction layer, without a gradient."""
        return self._read(inputs, plan)[1]

    def predict(self, inputs: Tensor, plan: Plan) -> list[Prediction]:
        """What the model returns for each input; what half precision made infinite or NaN is
        computed again in float32."""
        outputs = self._outputs(inputs, plan)
        again: dict[int, Tensor] = {}
        if plan.precision != "float32" or is_half(inputs.dtype):
            bad = [row for row, output in enumerate(outputs) if not output.isfinite().all()]
            if bad:
                chosen = inputs.index_select(self.batch, torch.tensor(bad, device=inputs.device))
                wide, in_float32 = (
                    self._in_float32(chosen.dtype),
                    replace(plan, precision="float32"),
                )
                made = wide._outputs(chosen.float(), in_float32)  # noqa: SLF001 - of this class
                again = dict(zip(bad, made, strict=True))
        return predictions_of(outputs, plan.reader.letters, again)

    def settle(self, inputs: Tensor, target: Target, plan: Plan) -> Settled:
        """The one scalar of a target on one input. Raises InvalidRequest if it has several."""
        if isinstance(target, Settled):
            return target
        settled = settle([target], self.output(inputs, plan)[0], plan.reader.behind, plan.finer)
        if len(settled) != 1:
            raise InvalidRequest(f"{target} has {len(settled)} scores: one is needed")
        return settled[0]

    def scores(self, inputs: Tensor, targets: Sequence[Settled], plan: Plan) -> Tensor:
        """(T, N) scores of targets that were resolved before, without a gradient."""
        logits, x = self._read(inputs, plan)
        flat = [(row, target) for target in targets for row in range(len(logits))]
        with torch.no_grad():
            return scores_of(flat, x, logits).reshape(len(targets), len(logits))

    def counted_scores(self, inputs: Tensor, target: Settled, plan: Plan) -> Tensor:
        """(N,) scores of any number of inputs, in chunks, each on the budget."""
        found = []
        for part in torch.split(inputs, plan.chunk, self.batch):
            plan.budget.spend(part.shape[self.batch])
            found.append(self.scores(part, [target], plan)[0])
        return torch.cat(found)

    def _outputs(self, inputs: Tensor, plan: Plan) -> Tensor:
        """(N, C, *D) of the model's output."""
        with torch.no_grad():
            seen = self._forward(inputs, plan, cut=False, recall=self.recall)
            output = plan.reader.widened(_ran(seen.reduction, plan.reader.layer))
            return rows_of(output, plan.reader, inputs.shape[self.batch])

    def _read(self, inputs: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """(N, C, *D) logits and scores, without a gradient."""
        with torch.no_grad():
            seen = self._forward(inputs, plan, cut=False)
            output = plan.reader.widened(_ran(seen.reduction, plan.reader.layer))
            logits = plan.reader.logits(output)
            return logits, plan.reader.scores(logits)

    def _forward(
        self, inputs: Tensor, plan: Plan, *, cut: bool = True, recall: Recall | None = None
    ) -> HeadForward:
        """recall: what is known of these very inputs, which is no longer so of their variants."""
        execution = self.execution
        if (
            execution is not None
            and self.forward is self.model
            and execution.computes(plan, cut=cut)
            and execution.takes(inputs)
        ):
            return execution.run(inputs, plan.precision, cut=cut, recall=recall)
        watched = plan.watched(cut=cut)
        inputs = inputs.clone()  # the model may write to them
        # of a model in float32: in any other, weights and casts would not fit together
        precision = plan.precision if inputs.dtype == torch.float32 else "float32"
        backbone = Backbone(self.device, precision)
        if backbone.ended:
            return forward_head(self.forward, inputs, watched, backbone)
        with casting_head(self.model, backbone):
            return forward_head(self.forward, inputs, watched, backbone)

    def _layers(self, seen: HeadForward, plan: Plan, rows: int) -> list[Layer]:
        layers = []
        for tap, features in zip(plan.taps, seen.features, strict=True):
            tensor = _ran(features, tap.layer)
            layout = refit(tap.layout, tuple(tensor.shape), rows, self.before, self.now)
            if layout is None:
                raise NotExplainable(
                    f"the feature layer {tap.layer!r} returned {tuple(tensor.shape)} for {rows} "
                    f"inputs of {self.now.size}: no map of the input's proportions"
                )
            layers.append(Layer(tap.layer, tensor, layout, self.now, seen.pooled))
        return layers

    def _perturber(self, inputs: Tensor, plan: Plan) -> Perturber:
        return Perturber(
            inputs=inputs,
            input_layout=self.input_layout,
            batch=self.batch,
            score_of=lambda variants, targets: self.scores(variants, targets, plan),
            budget=plan.budget,
            chunk=plan.chunk,
            channels=plan.channels,
        )

    def _guided_slopes(self, inputs: Tensor, scores: Scores, plan: Plan) -> list[Tensor]:
        """For each slot (N, C, *S), the guided gradient in the input: a full backward pass."""
        plan.budget.spend(len(scores.targets))
        leaf = inputs.detach().clone().requires_grad_()
        relus = GuidedReLUs()
        with relus:
            seen = self._forward(leaf, plan, cut=False)
        if relus.count == 0:
            raise NotExplainable(
                "guided-gradcam changes the backward pass of ReLUs, and this model has none: use "
                "gradcam or layercam"
            )
        output = _ran(seen.reduction, plan.reader.layer)
        guided = []
        for cotangent in torch.split(scores.cotangents(), 1):
            gradients = vector_jacobian(output, [leaf], cotangent.to(output.dtype))
            if gradients is None:
                raise NotExplainable("no gradient reaches the input: use gradcam")
            slopes = to_channels_first(gradients[0], self.input_layout, self.now, lead=1)[0]
            guided.append(slopes if slopes.dtype == torch.float64 else slopes.float())
        return guided

    def _in_float32(self, dtype: torch.dtype) -> Computation:
        """The same network with float32 weights, which hold those of half precision exactly, for
        some of the inputs."""
        if not is_half(dtype):
            return replace(self, recall=None)
        known = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        if isinstance(self.forward, Reweighted):
            known |= self.forward.weights
        wide = {n: w.float() if w.is_floating_point() else w for n, w in known.items()}
        return replace(self, forward=Reweighted(self.model, wide))


def _guided(maps: Sequence[LayerMaps], slopes: Sequence[Tensor]) -> list[LayerMaps]:
    """The maps times the guided gradients, slot by slot."""
    return [
        replace(
            layer,
            maps=torch.stack(
                [guided_grad_cam(one, slope) for one, slope in zip(layer.maps, slopes, strict=True)]
            ),
        )
        for layer in maps
    ]


def _ran(tensor: Tensor | None, layer: str) -> Tensor:
    if tensor is None:
        raise NotExplainable(f"layer {layer!r} never ran in the model's forward pass")
    return tensor


def _is_nonfinite(attribution: Attribution) -> bool:
    return Diagnostic.NONFINITE in attribution.diagnostics


def _retried(attribution: Attribution) -> Attribution:
    """Marked as computed again, unless that did not help."""
    if _is_nonfinite(attribution):
        return attribution
    found = (Diagnostic.NONFINITE_RETRIED, *attribution.diagnostics)
    return replace(attribution, diagnostics=found)
