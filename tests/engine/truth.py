"""Grad-CAM once more, by hand: another route to the same numbers, for the tests to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["difference", "hand_map", "pearson"]

Score = Callable[[Tensor], Tensor]


def hand_map(
    model: nn.Module,
    layer: str,
    inputs: Tensor,
    score: Score,
    *,
    maps: Callable[[Tensor], Tensor] = lambda features: features,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """(*S) map of one input, with the whole graph recorded, in `dtype` on a copy of the model.

    `score`: scalar of the output row; `maps`: the layer's output to (1, K, *S). The gradient is
    taken in the value that the layer returned, before anything downstream can write to it.
    """
    twin = copy.deepcopy(model).to(dtype)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        kept.append(output)
        return output * 1  # a new tensor: in-place operations downstream do not touch `output`

    with torch.enable_grad():
        handle = twin.get_submodule(layer).register_forward_hook(keep)
        output = twin(inputs.to(dtype).requires_grad_())
        handle.remove()
        logits = output if isinstance(output, Tensor) else output.logits
        (gradient,) = torch.autograd.grad(score(logits[0]), kept[0])
    features, slopes = maps(kept[0].detach())[0], maps(gradient)[0]
    total = torch.zeros(features.shape[1:], dtype=dtype)
    for channel in range(len(features)):
        total += slopes[channel].mean() * features[channel]
    return total


def difference(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def pearson(a: Tensor, b: Tensor) -> float:
    """The correlation of two maps, position by position."""
    a, b = (one.double().flatten() - one.double().mean() for one in (a, b))
    return float(a @ b / (a.norm() * b.norm()))
