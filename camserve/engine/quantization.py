"""Weights of the backbone as int8: a quarter of the memory, one scale for each output channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["quantize_weights"]

LEAST_VALUES = 256
"""Smaller weights stay: there is nothing to gain."""


class _Int8(nn.Module):
    """A weight (K, *) as int8 (K, *) and scales (K, 1, ...): symmetric, rounded to nearest."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1))
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
        return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale

    def forward(self, quantized: Tensor, scale: Tensor) -> Tensor:
        return quantized.to(scale.dtype) * scale


def quantize_weights(modules: Iterable[nn.Module]) -> int:
    """Keep each module's own `weight` of two dimensions or more as int8; returns how many.

    It is turned back when it is used, so that the arithmetic and the gradient stay those of
    floating-point numbers. What several modules share they share afterwards.
    """
    count = 0
    kept: dict[int, Any] = {}  # by the id of the weight, which must not be kept itself
    for module in modules:
        weight = module._parameters.get("weight")  # noqa: SLF001 - its own, not a parametrized one
        if weight is None or weight.ndim < 2 or weight.numel() < LEAST_VALUES:
            continue
        if not weight.is_floating_point():
            continue
        # a buffer: integers cannot be parameters that torch would take for trainable
        del module.weight
        module.register_buffer("weight", weight.detach())
        parametrize.register_parametrization(module, "weight", _Int8(), unsafe=True)
        ours: Any = module.parametrizations
        first = kept.setdefault(id(weight), ours.weight)
        ours.weight.original0, ours.weight.original1 = first.original0, first.original1
        count += 1
    return count
