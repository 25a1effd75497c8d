"""Score-CAM and Ablation-CAM: the scores of many variants of one input, in chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camserve.engine.attributions import Layer, LayerMaps
from camserve.engine.budget import Budget
from camserve.engine.exhaustion import is_out_of_memory
from camserve.engine.introspection import FeatureTap
from camserve.engine.layouts import Layout, to_channels_first
from camserve.engine.methods.perturbation import (
    ablation_cam,
    channel_masks,
    most_varied_channels,
    score_cam,
)
from camserve.engine.nested import floating_tensors, replace_tensor
from camserve.engine.scores import Scores
from camserve.engine.targets import Settled
from camserve.errors import CamserveError, NotExplainable, one_line

__all__ = ["Perturber", "perturbed_maps"]

_log = logging.getLogger(__name__)

ScoreOf = Callable[[Tensor, Sequence[Settled]], Tensor]
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
    """
    made = []
    for place, (tap, layer) in enumerate(zip(taps, layers, strict=True)):
        features = layer.activations()
        ablation = _Ablation(perturber, tap, layer, ablate_in[place]) if ablate_in else None
        maps = features.new_zeros(len(scores.sums), len(features), *features.shape[2:])
        for row, targets in enumerate(scores.targets):
            if not targets:
                continue
            chosen = most_varied_channels(features[row], perturber.channels)
            kept = features[row][chosen]
            if ablation is not None:
                values = torch.tensor(scores.values[row], dtype=torch.float64).to(features.device)
                found = ablation_cam(kept, values, ablation.scores(row, chosen, targets, values))
            else:
                found = score_cam(kept, _masked_scores(perturber, kept, row, targets, layer))
            maps[: len(targets), row] = found
        never = torch.zeros(maps.shape[:2], dtype=torch.bool, device=maps.device)
        made.append(LayerMaps(maps, never))
    return made


def _masked_scores(
    perturber: Perturber, channels: Tensor, row: int, targets: Sequence[Settled], layer: Layer
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
    """Scores of inputs with each channel of a layer set to 0, where its call `call` returns.

    The variants part at the layer, so that the backbone runs for one input only: what comes behind
    gets as many rows as there are variants. A head that cannot take them (it has kept the number
    of inputs from before the layer) is found out by the score of an unchanged variant; then all
    variants run from the start, which is what the method asks for. `parts_at_layer` is None before
    that trial.
    """

    perturber: Perturber
    tap: FeatureTap
    layer: Layer
    call: int
    parts_at_layer: bool | None = None

    def scores(
        self, row: int, chosen: Tensor, targets: Sequence[Settled], expected: Tensor
    ) -> Tensor:
        """(T, K) for the K chosen channels. expected: (T,), the scores of the input as it is."""
        if self.parts_at_layer is None:
            self.parts_at_layer = self.perturber.chunk > 1 and self._fits(row, targets, expected)
        found = []
        for part in torch.split(chosen, self.perturber.chunk):
            self.perturber.budget.spend(len(part))
            found.append(self._run(row, part, targets, parts=self.parts_at_layer))
        return torch.cat(found, 1)

    def _fits(self, row: int, targets: Sequence[Settled], expected: Tensor) -> bool:
        """Whether unchanged variants that part at the layer have the score that is known."""
        unchanged = torch.full((TRIALS,), -1)
        try:
            scores = self._run(row, unchanged, targets, parts=True)
        except CamserveError:
            raise
        except Exception as error:  # a head may object to more rows in any way
            if is_out_of_memory(error):
                raise
            _log.info("%s: %s: %s", self._whole_passes, type(error).__name__, one_line(error))
            return False
        slack = SAME_SCORE * expected.abs().max()
        fits = scores.shape == (len(targets), TRIALS)
        fits = fits and bool(((scores - expected[:, None]).abs() <= slack).all())
        if not fits:
            _log.info("%s: it gives them another score", self._whole_passes)
        return fits

    @property
    def _whole_passes(self) -> str:
        return (
            f"ablationcam at {self.tap.layer!r} runs whole passes, since the head does not take "
            "more rows than there are inputs"
        )

    def _run(
        self, row: int, channels: Tensor, targets: Sequence[Settled], *, parts: bool
    ) -> Tensor:
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
            together = torch.cat([taken] * copies, batch) if parts else taken.clone()
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

        inputs = self.perturber.row(row, 1 if parts else copies)
        handle = self.tap.module.register_forward_hook(ablate)
        try:
            return self.perturber.score_of(inputs, targets)
        finally:
            handle.remove()
