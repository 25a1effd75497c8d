"""Score-CAM and Ablation-CAM: the scores of many variants of one input, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camserve.engine.attributions import Layer, LayerMaps
from camserve.engine.budget import Budget
from camserve.engine.introspection import FeatureTap
from camserve.engine.layouts import Layout, to_channels_first
from camserve.engine.methods.perturbation import (
    ablation_cam,
    channel_masks,
    most_varied_channels,
    score_cam,
)
from camserve.engine.nested import floating_tensors, replace_tensor
from camserve.engine.resolved_targets import Resolved
from camserve.engine.scores import Scores
from camserve.errors import NotExplainable

__all__ = ["Perturber", "perturbed_maps"]

ScoreOf = Callable[[Tensor, Sequence[Resolved]], Tensor]
"""(m inputs, targets) to (T, m) scores, without a gradient."""

SAME_SCORE = 1e-3
"""Of the score itself: how well a head that got more rows than it expects must repeat a score."""

TRIALS = 2
"""Unchanged variants that show whether the head takes them."""


@dataclass(frozen=True)
class Perturber:
    """inputs: (N, ...) as the model takes them. input_layout: how they are read. chunk: variants
    at once. channels: how many of a layer's channels count, None for all."""

    inputs: Tensor
    input_layout: Layout
    batch: int
    score_of: ScoreOf
    budget: Budget
    chunk: int
    channels: int | None = None

    def row(self, index: int, copies: int = 1) -> Tensor:
        """One input, so many times over; a copy."""
        return torch.cat([self.inputs.narrow(self.batch, index, 1)] * copies, self.batch)


def perturbed_maps(
    perturber: Perturber,
    layers: Sequence[Layer],
    taps: Sequence[FeatureTap],
    scores: Scores,
    *,
    ablate_in: Sequence[int] | None,
) -> list[LayerMaps]:
    """The maps of Ablation-CAM, or else of Score-CAM, for every layer, slot and row.

    ablate_in: for Ablation-CAM, in which of its calls each layer returned its features: the last.
    Raises OverBudget before the first pass if there are too many.
    """
    activations = [layer.activations() for layer in layers]
    most = perturber.channels
    needed = sum(min(one.shape[1], most or one.shape[1]) for one in activations)
    if ablate_in is not None:
        needed += TRIALS * len(layers)
    perturber.budget.reserve(needed * sum(map(bool, scores.targets)))
    made = []
    for place, (tap, layer) in enumerate(zip(taps, layers, strict=True)):
        features = activations[place]
        maps = features.new_zeros(len(scores.sums), len(features), *features.shape[2:])
        for row, targets in enumerate(scores.targets):
            if not targets:
                continue
            chosen = most_varied_channels(features[row], most)
            kept = features[row][chosen]
            if ablate_in is not None:
                values = torch.tensor(scores.values[row], dtype=torch.float64).to(features.device)
                variants = _Ablation(perturber, tap, layer, row, ablate_in[place])
                found = ablation_cam(kept, values, variants.scores(chosen, targets, values))
            else:
                found = score_cam(kept, _masked_scores(perturber, kept, row, targets, layer))
            maps[: len(targets), row] = found
        never = torch.zeros(maps.shape[:2], dtype=torch.bool, device=maps.device)
        made.append(LayerMaps(maps, never))
    return made


def _masked_scores(
    perturber: Perturber, channels: Tensor, row: int, targets: Sequence[Resolved], layer: Layer
) -> Tensor:
    """(T, K) scores of one input, masked by each of the channels (K, *S)."""
    found = []
    for part in torch.split(channels, perturber.chunk):
        perturber.budget.spend(len(part))
        masks = channel_masks(part, layer.extent.size).to(perturber.inputs)
        masked = perturber.row(row, len(part))
        view = to_channels_first(masked, perturber.input_layout, layer.extent)
        view *= masks.unsqueeze(1)
        found.append(perturber.score_of(masked, targets))
    return torch.cat(found, 1)


@dataclass
class _Ablation:
    """One input's scores with each channel of a layer set to 0, where its call `call` returns.

    The variants part at the layer, so that the backbone runs for one input only: what comes behind
    gets as many rows as there are variants. A head that cannot take them (it has kept the number
    of inputs from before the layer) is found out by the score of an unchanged variant; then all
    variants run from the start.
    """

    perturber: Perturber
    tap: FeatureTap
    layer: Layer
    row: int
    call: int
    parts_at_layer: bool = True

    def scores(self, chosen: Tensor, targets: Sequence[Resolved], expected: Tensor) -> Tensor:
        """(T, K) for the K chosen channels."""
        self.parts_at_layer = self._fits(targets, expected)
        found = []
        for part in torch.split(chosen, self.perturber.chunk):
            self.perturber.budget.spend(len(part))
            found.append(self._run(part, targets))
        return torch.cat(found, 1)

    def _fits(self, targets: Sequence[Resolved], expected: Tensor) -> bool:
        """Whether unchanged variants have the score that is known."""
        nothing = torch.full((TRIALS,), -1)
        self.perturber.budget.spend(TRIALS)
        try:
            scores = self._run(nothing, targets)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - a head may object to more rows in any way
            return False
        if scores.shape != (len(targets), TRIALS):
            return False
        slack = SAME_SCORE * expected.abs().max()
        return bool(((scores - expected[:, None]).abs() <= slack).all())

    def _run(self, channels: Tensor, targets: Sequence[Resolved]) -> Tensor:
        """(T, m) scores with channel k of variant k set to 0; -1 leaves a variant as it is."""
        batch = self.layer.layout.letters.index("B")
        copies = len(channels)
        calls = 0

        def ablate(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            nonlocal calls
            tensors = [tensor for _, tensor in floating_tensors(output)]
            if self.tap.index >= len(tensors):
                return None
            calls += 1
            if calls != self.call:
                return None
            taken = tensors[self.tap.index]
            together = torch.cat([taken] * copies, batch) if self.parts_at_layer else taken.clone()
            view = to_channels_first(together, self.layer.layout, self.layer.extent)
            if view.untyped_storage().data_ptr() != together.untyped_storage().data_ptr():
                raise NotExplainable(
                    "ablationcam sets one channel after the other to 0, and this layer has "
                    f"several channel dimensions ({self.layer.layout.label}): name another layer"
                )
            for variant, channel in enumerate(channels.tolist()):
                if channel >= 0:
                    view[variant, channel] = 0
            return replace_tensor(output, taken, together)

        inputs = self.perturber.row(self.row, 1 if self.parts_at_layer else copies)
        handle = self.tap.module.register_forward_hook(ablate)
        try:
            return self.perturber.score_of(inputs, targets)
        finally:
            handle.remove()
