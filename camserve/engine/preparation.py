"""Makes a model ready to be explained: evaluation mode, frozen weights, ordinary tensors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["placement", "prepare"]


def prepare(model: nn.Module) -> None:
    """Evaluation mode; parameters and buffers frozen, inference tensors replaced by copies.

    Frozen, because a weight that requires grad would pull the whole backbone into the graph.
    Copies, because autograd refuses to save inference tensors (a model that was loaded under
    `torch.inference_mode()`).
    """
    model.eval()
    copies: dict[int, Tensor] = {}  # tied weights stay tied
    with torch.inference_mode(mode=False):
        for module in model.modules():
            for name, weight in itertools.chain(
                list(module.named_parameters(recurse=False, remove_duplicate=False)),
                list(module.named_buffers(recurse=False, remove_duplicate=False)),
            ):
                if weight.is_inference():
                    setattr(module, name, copies.setdefault(id(weight), _ordinary(weight)))
                else:
                    weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature takes no keyword


def placement(model: nn.Module, default: Tensor) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point dtype of the model: of its first floating weight."""
    for weight in itertools.chain(model.parameters(), model.buffers()):
        if weight.is_floating_point():
            return weight.device, weight.dtype
    return default.device, default.dtype


def _ordinary(weight: Tensor) -> Tensor:
    clone = weight.detach().clone()
    is_parameter = isinstance(weight, nn.Parameter)
    return nn.Parameter(clone, requires_grad=False) if is_parameter else clone
