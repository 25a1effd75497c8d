"""Weights rounded to int8 by hand, and those that the engine keeps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["nbytes", "quantized", "rounded", "rounded_twin", "stored"]


def quantized(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose weight is kept as int8, by name; of each the first name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "parametrizations") and "weight" in module.parametrizations
    }


def stored(module: nn.Module) -> tuple[Tensor, Tensor]:
    """The integers and the scales."""
    kept = module.parametrizations.weight
    return kept.original0, kept.original1


def rounded(weight: Tensor) -> Tensor:
    """By hand, channel by channel: to the nearest of 255 steps, the outermost at the largest."""
    channels = []
    for channel in weight.detach().numpy():
        step = np.abs(channel).max() / np.float32(127) or np.float32(1)
        channels.append(np.rint(channel / step) * step)
    return torch.from_numpy(np.stack(channels))


def rounded_twin(model: nn.Module, names: list[str]) -> nn.Module:
    """The model with these weights rounded, in floating point all of it."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            weight = twin.get_submodule(name).weight
            weight.copy_(rounded(weight))
    return twin


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
