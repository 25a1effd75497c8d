"""From a recorded head and its scores to the attributions of every row and target."""

from __future__ import annotations

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
    for a float64 model). `score`: the scalar that was explained. `class_index`: the class, for a
    target that names or finds one.
    """

    maps: tuple[Tensor, ...]
    score: float
    class_index: int | None
    diagnostics: tuple[Diagnostic, ...]

    @property
    def map(self) -> Tensor:
        """The map of the first feature layer, most often the only one."""
        return self.maps[0]


@dataclass(frozen=True)
class Layer:
    """What one feature layer returned, and how it is read. The output depends on `features`."""

    name: str
    features: Tensor
    layout: Layout
    extent: Extent

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


def attributions_of(layers: Sequence[LayerMaps], scores: Scores) -> list[list[Attribution]]:
    """Attributions, row by row, in the order of `scores.targets`."""
    cams = [layer.maps.cpu() for layer in layers]  # (K, N, *S)
    zero = torch.stack([layer.without_gradient for layer in layers]).all(0).tolist()
    return [
        [
            _attribution(
                # not views: keeping one map keeps one map
                tuple(cam[slot, row].clone() for cam in cams),
                value,
                target.class_index,
                zero_gradient=zero[slot][row],
                saturated=scores.saturated[row][slot],
            )
            for slot, (target, value) in enumerate(
                zip(scores.targets[row], scores.values[row], strict=True)
            )
        ]
        for row in range(len(scores.targets))
    ]


def _attribution(
    maps: tuple[Tensor, ...],
    score: float,
    class_index: int | None,
    *,
    zero_gradient: bool,
    saturated: bool,
) -> Attribution:
    found = diagnose(maps, score, zero_gradient=zero_gradient, saturated=saturated)
    return Attribution(maps, score, class_index, found)


def _gradients(
    layers: Sequence[Layer], output: Tensor, cotangents: Tensor
) -> Iterator[list[Tensor]]:
    """For each layer (k, *features.shape), of as many slots at a time as memory should hold."""
    values = sum(layer.features.numel() for layer in layers)
    chunk = max(1, MOST_GRADIENT_VALUES // max(1, values))
    features = [layer.features for layer in layers]
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


def _never(slots: int, maps: Tensor) -> Tensor:
    """(K, N) false: no gradient was asked for."""
    return torch.zeros(slots, maps.shape[1], dtype=torch.bool, device=maps.device)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if is_half(tensor.dtype) else tensor
