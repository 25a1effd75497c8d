"""From a recorded head and its scores to the attributions of every row and target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.engine.cam import grad_cam
from camserve.engine.diagnostics import Diagnostic, diagnose
from camserve.engine.gradients import vector_jacobian
from camserve.engine.layouts import Layout, to_channels_first
from camserve.engine.scores import Scores
from camserve.engine.targets import ClassIndex
from camserve.errors import NotExplainable

__all__ = ["Attribution", "attribute"]

MOST_GRADIENT_VALUES = 2**23
"""Gradients of so many values are held at once (32 MiB in float32); more targets take turns.

Larger blocks are no faster on a GPU, and on a CPU slower by half: fresh pages cost more than the
arithmetic."""


@dataclass(frozen=True)
class Attribution:
    """The answer to one target of one input.

    `map`: (*S) signed Grad-CAM at the feature layer's resolution, CPU, float32 (float64 for a
    float64 model). `score`: the scalar that was differentiated. `class_index`: the class, for a
    target that names or finds one.
    """

    map: Tensor
    score: float
    class_index: int | None
    diagnostics: tuple[Diagnostic, ...]


def attribute(
    features: Tensor, output: Tensor, scores: Scores, layout: Layout
) -> list[list[Attribution]]:
    """Attributions, row by row, in the order of `scores.targets`.

    features: the leaf, laid out as `layout`; output: the reduction layer's, connected to it.
    Raises NotExplainable if it is not connected.
    """
    activations = _at_least_float32(to_channels_first(features.detach(), layout))
    maps, without_gradient = [], []
    for gradients in _gradients(features, output, scores.cotangents):
        flat = _at_least_float32(to_channels_first(gradients.flatten(0, 1), layout))
        spatial = flat.reshape(len(gradients), *activations.shape)
        maps.append(grad_cam(activations, spatial))
        without_gradient.append(_without_gradient(maps[-1], spatial))
    cams = torch.cat(maps).cpu()  # (K, N, *S)
    zero_gradient = torch.cat(without_gradient).tolist()
    return [
        [
            Attribution(
                map=cams[slot, row].clone(),  # not a view: keeping one map keeps one map
                score=value,
                class_index=target.index if isinstance(target, ClassIndex) else target.class_index,
                diagnostics=diagnose(
                    cams[slot, row],
                    value,
                    zero_gradient=zero_gradient[slot][row],
                    saturated=scores.saturated[row][slot],
                ),
            )
            for slot, (target, value) in enumerate(
                zip(scores.targets[row], scores.values[row], strict=True)
            )
        ]
        for row in range(len(features))
    ]


def _gradients(features: Tensor, output: Tensor, cotangents: Tensor) -> Iterator[Tensor]:
    """(k, *features.shape) gradients of the slots, as many at a time as memory should hold."""
    chunk = max(1, MOST_GRADIENT_VALUES // max(1, features.numel()))
    for part in torch.split(cotangents, chunk):
        gradients = vector_jacobian(output, features, part)
        if gradients is None:
            raise NotExplainable(
                "the reduction layer does not depend on the feature layer, or a gradient cannot "
                "pass between them: choose a feature layer that comes before the reduction layer"
            )
        yield gradients


def _without_gradient(maps: Tensor, gradients: Tensor) -> Tensor:
    """(K, N) whether all gradients are 0. Only zero maps need the pass over the gradients."""
    zero = ~maps.flatten(2).any(2)
    if bool(zero.any()):
        zero &= ~gradients.flatten(2).any(2)
    return zero


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
