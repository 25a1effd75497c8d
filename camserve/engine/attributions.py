"""From a recorded head and its scores to the attributions of every row and target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from camserve.engine.diagnostics import Diagnostic, diagnose
from camserve.engine.gradients import vector_jacobian
from camserve.engine.layouts import Extent, Layout, to_channels_first
from camserve.engine.methods import eigen, gradient
from camserve.engine.precision import is_half
from camserve.engine.scores import Scores
from camserve.engine.targets import Settled
from camserve.errors import NotExplainable
from camserve.vocabulary import Method

__all__ = [
    "GRADIENT_METHODS",
    "Attribution",
    "Layer",
    "LayerMaps",
    "attributions_of",
    "gradient_maps",
]

MOST_GRADIENT_VALUES = 2**23
"""Gradients of so many values are held at once (32 MiB in float32); more targets take turns.

Larger blocks are no faster on a GPU, and on a CPU slower by half: fresh pages cost more than the
arithmetic."""

GRADIENT_METHODS: Mapping[Method, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "gradcam": gradient.grad_cam,
        "finercam": gradient.grad_cam,  # of another score
        "guided-gradcam": gradient.grad_cam,  # to be multiplied later
        "gradcam++": gradient.grad_cam_plus_plus,
        "hirescam": gradient.hires_cam,
        "xgradcam": gradient.x_grad_cam,
        "layercam": gradient.layer_cam,
        "eigengradcam": eigen.eigen_grad_cam,
    }
)


@dataclass(frozen=True)
class Attribution:
    """The answer to one target of one input.

    `maps`: (*S) signed, one for each feature layer, at that layer's resolution and with the axes
    of the input's space and time; of guided-gradcam, at the input's. On the CPU, float32 (float64
    for a float64 model). `score`: the value of what was explained, `target`, settled on this
    input: explained or scored again elsewhere, it is the same scalar of the output.
    """

    maps: tuple[Tensor, ...]
    score: float
    target: Settled
    diagnostics: tuple[Diagnostic, ...]

    @property
    def class_index(self) -> int | None:
        """The class, for a target that names or finds one."""
        return self.target.class_index

    @property
    def map(self) -> Tensor:
        """The map of the first feature layer, most often the only one."""
        return self.maps[0]


@dataclass(frozen=True)
class Layer:
    """What one feature layer returned, and how it is read. The output depends on `features`, or
    on `pooled`, their mean over all positions, (N, C) or (N, C, 1, ...)."""

    name: str
    features: Tensor
    layout: Layout
    extent: Extent
    pooled: Tensor | None = None

    @property
    def leaf(self) -> Tensor:
        """What the output is differentiable in."""
        return self.features if self.pooled is None else self.pooled

    def of_positions(self, gradients: Tensor) -> Tensor:
        """(k, *leaf.shape) as (k, *features.shape): of a mean, the same share at each position, and
        a view."""
        if self.pooled is None:
            return gradients
        shape, count = self.features.shape, len(gradients)
        shares = gradients * (self.pooled.numel() / self.features.numel())
        return shares.reshape(count, *shape[:2], *[1] * (len(shape) - 2)).expand(count, *shape)

    def activations(self) -> Tensor:
        """(N, K, *S), at least float32."""
        tensor = self.features.detach()
        return _at_least_float32(to_channels_first(tensor, self.layout, self.extent))

    def gradients(self, gradients: Tensor) -> Tensor:
        """(k, *features.shape) as (k, N, K, *S), at least float32."""
        return _at_least_float32(to_channels_first(gradients, self.layout, self.extent, lead=1))


@dataclass(frozen=True)
class LayerMaps:
    """(K, N, *S) maps of one layer for each slot and row, and where all gradients were 0."""

    maps: Tensor
    without_gradient: Tensor


Finish = Callable[[Sequence[LayerMaps]], list[LayerMaps]]


def gradient_maps(
    layers: Sequence[Layer], output: Tensor, scores: Scores, method: Method
) -> list[LayerMaps]:
    """The maps of a method that needs activations and gradients only.

    output: the reduction layer's, connected to the layers' features. Raises NotExplainable if it
    is not.
    """
    activations = [layer.activations() for layer in layers]
    if method == "eigencam":
        slots = len(scores.sums)
        found = [eigen.eigen_cam(one).unsqueeze(0) for one in activations]
        return [LayerMaps(m.expand(slots, *m.shape[1:]), _never(slots, m)) for m in found]
    make = GRADIENT_METHODS[method]
    made: list[list[Tensor]] = [[] for _ in layers]
    without: list[list[Tensor]] = [[] for _ in layers]
    for blocks in _gradients(layers, output, scores.cotangents()):
        for place, (layer, block) in enumerate(zip(layers, blocks, strict=True)):
            gradients = layer.gradients(block)
            maps = make(activations[place], gradients)
            made[place].append(maps)
            without[place].append(_without_gradient(maps, gradients))
    return [LayerMaps(torch.cat(m), torch.cat(w)) for m, w in zip(made, without, strict=True)]


def attributions_of(
    layers: Sequence[LayerMaps], scores: Scores, finish: Finish | None = None
) -> list[list[Attribution]]:
    """Attributions, row by row, in the order of `scores.targets`.

    finish: what still becomes of the maps; what is to be said of them is said before, but for
    their being finite.
    """
    cams = [layer.maps.cpu() for layer in layers]  # (K, N, *S)
    finished = [layer.maps.cpu() for layer in finish(layers)] if finish else cams
    zero = torch.stack([layer.without_gradient for layer in layers]).all(0).tolist()
    finite = torch.stack([_finite(cam) for cam in (*cams, *finished)]).all(0).tolist()
    ranges = [cam.flatten(2).aminmax(dim=2) for cam in cams]
    lows = torch.stack([low for low, _ in ranges], 2).tolist()  # [slot][row][layer]
    highs = torch.stack([high for _, high in ranges], 2).tolist()
    attributions: list[list[Attribution]] = []
    for row, (targets, values) in enumerate(zip(scores.targets, scores.values, strict=True)):
        of_row = []
        for slot, (target, score) in enumerate(zip(targets, values, strict=True)):
            diagnostics = diagnose(
                list(zip(lows[slot][row], highs[slot][row], strict=True)),
                finite=finite[slot][row] and math.isfinite(score),
                zero_gradient=zero[slot][row],
                saturated=scores.saturated[row][slot],
            )
            # not views: keeping one map keeps one map
            maps = tuple(cam[slot, row].clone() for cam in finished)
            of_row.append(Attribution(maps, score, target, diagnostics))
        attributions.append(of_row)
    return attributions


def _finite(cam: Tensor) -> Tensor:
    """(K, N) whether all of a map is finite."""
    return cam.isfinite().flatten(2).all(2)


def _gradients(
    layers: Sequence[Layer], output: Tensor, cotangents: Tensor
) -> Iterator[list[Tensor]]:
    """For each layer (k, *features.shape), of as many slots at a time as memory should hold."""
    values = sum(layer.features.numel() for layer in layers)
    chunk = max(1, MOST_GRADIENT_VALUES // max(1, values))
    leaves = [layer.leaf for layer in layers]
    for part in torch.split(cotangents, chunk):
        gradients = vector_jacobian(output, leaves, part)
        if gradients is None:
            raise NotExplainable(
                "the reduction layer does not depend on the feature layer, or a gradient cannot "
                "pass between them: choose a feature layer that comes before the reduction layer"
            )
        pairs = zip(layers, gradients, strict=True)
        yield [layer.of_positions(gradient) for layer, gradient in pairs]


def _without_gradient(maps: Tensor, gradients: Tensor) -> Tensor:
    """(K, N) whether all gradients are 0. Only zero maps need the pass over the gradients."""
    zero = ~maps.flatten(2).any(2)
    if bool(zero.any()):
        zero &= ~gradients.flatten(2).any(2)
    return zero


def _never(slots: int, maps: Tensor) -> Tensor:
    """(K, N) false: no gradient was asked for."""
    return torch.zeros(slots, maps.shape[1], dtype=torch.bool, device=maps.device)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if is_half(tensor.dtype) else tensor
