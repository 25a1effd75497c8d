"""Guided Grad-CAM: the map of the layer, sharpened by a gradient in the input itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camserve.engine.methods.perturbation import upsample

__all__ = ["GuidedReLUs", "guided_grad_cam"]

_RELUS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.relu,
        functional.relu_,
        functional.relu6,
        functional.leaky_relu,
        functional.leaky_relu_,
        functional.threshold,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        torch.ops.aten.relu.default,
        torch.ops.aten.relu_.default,
        torch.ops.aten.leaky_relu.default,
        torch.ops.aten.leaky_relu_.default,
        torch.ops.aten.threshold.default,
        torch.ops.aten.threshold_.default,
    }
)

# ReLUs if what they cut off is what lies below 0: the name of their second argument, the bound
_CLAMPS: dict[Callable[..., Any], str] = {
    functional.hardtanh: "min_val",
    functional.hardtanh_: "min_val",
    torch.clamp: "min",
    torch.clamp_: "min",
    Tensor.clamp: "min",
    Tensor.clamp_: "min",
    torch.ops.aten.hardtanh.default: "min_val",
    torch.ops.aten.hardtanh_.default: "min_val",
    torch.ops.aten.clamp.default: "min",
    torch.ops.aten.clamp_.default: "min",
    torch.ops.aten.clamp.Tensor: "min",
    torch.ops.aten.clamp_.Tensor: "min",
}


class GuidedReLUs(TorchFunctionMode):
    """Inside, every ReLU lets only positive gradients back (Springenberg et al. 2015, sec. 3.4).

    Also those that are no modules, and those of a torch.export program or an ONNX file; and the
    relatives of the ReLU: leaky, capped at 6, or a clamp at 0. `count`: how many ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # what runs in here, as F.hardtanh in F.relu6, does not come by again
        output = func(*args, **(kwargs or {}))
        if not _is_relu(func, args, kwargs or {}):
            return output
        if output.requires_grad:
            self.count += 1
            # what comes back to the output, before the ReLU's own gradient: on it goes if positive
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


def _is_relu(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func not in _CLAMPS:
        return func in _RELUS
    bound = args[1] if len(args) > 1 else kwargs.get(_CLAMPS[func])
    if isinstance(bound, Tensor):
        return not bool(bound.any())
    return bound == 0


def guided_grad_cam(maps: Tensor, guided: Tensor) -> Tensor:
    """ReLU(map), up-sampled, times the guided gradient (Selvaraju et al. 2017, sec. 3.2).

    maps: (N, *S) signed Grad-CAM. guided: (N, K, *input), the gradient in the input with
    `GuidedReLUs`. Returns (N, *input): linear up-sampling, summed over the input's channels.
    """
    grown = upsample(maps.clamp(min=0), tuple(guided.shape[2:]))
    return grown * guided.sum(1)
