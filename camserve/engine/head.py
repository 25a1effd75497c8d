"""One forward pass of which only the head, from the feature layer on, is recorded for autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camserve.engine.nested import floating_tensors, model_output, replace_tensor

__all__ = ["HeadForward", "forward_head", "ordinary_autograd"]


@dataclass
class HeadForward:
    """`features`: what the feature layer returned, a leaf that requires grad; `reduction`: what
    the reduction layer returned, connected to it. None: that layer did not run."""

    features: Tensor | None = None
    reduction: Tensor | None = None


@contextmanager
def ordinary_autograd() -> Iterator[None]:
    """Autograd works inside, whatever the caller's mode (no_grad, inference_mode); then as before.

    Grad mode is on from the start, and yet the backbone builds no graph: the weights are frozen
    and the input does not require grad. Were it off, a model's own `with torch.no_grad()` around
    its backbone would, at its end, turn it off again behind the feature layer.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def forward_head(
    model: nn.Module,
    inputs: Tensor,
    *,
    feature: nn.Module,
    feature_index: int,
    reduction: nn.Module | None,
) -> HeadForward:
    """Runs the model on inputs (N, C, *S); `feature_index`: which of its tensors is explained.

    `reduction`: a module, or None for the model's output. A module that runs more than once
    counts with its last call. The hooks are gone afterwards, also after an exception.
    """
    seen = HeadForward()

    def keep_features(_module: nn.Module, inputs: Any, output: Any) -> Any:
        tensors = list(floating_tensors(output))
        if feature_index >= len(tensors):
            return None
        taken = tensors[feature_index]
        # own memory: the map explains the value returned here, whatever is written to it later
        seen.features = taken.detach().clone().requires_grad_()
        torch.set_grad_enabled(True)  # the layer may lie in a block of the model's own no_grad
        if any(tensor is taken for tensor in floating_tensors(inputs)):
            # an in-place layer: who holds its input holds its output, and must see the leaf too
            taken.copy_(seen.features)
            return None
        return replace_tensor(output, taken, seen.features.clone())

    def keep_reduction(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.reduction = model_output(output)

    handles = [feature.register_forward_hook(keep_features)]
    if reduction is not None:
        handles.append(reduction.register_forward_hook(keep_reduction))
    try:
        output = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if reduction is None:
        seen.reduction = model_output(output)
    return seen
