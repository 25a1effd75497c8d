"""One forward pass of which only the head, from the feature layer on, is recorded for autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camserve.engine.exclusion import computing
from camserve.engine.nested import floating_tensors, output_tensor, replace_tensor
from camserve.engine.precision import Backbone, is_half

__all__ = ["Forward", "HeadForward", "Watched", "forward_head", "ordinary_autograd"]

Forward = Callable[[Tensor], Any]
"""The network as a function of its input: the model, or the model with other weights."""


@dataclass(frozen=True)
class Watched:
    """What to look at: for each feature layer its module and the place among its tensors, and the
    reduction layer's module (None: the model's output), path and name. Without `cut` the feature
    layers only say where the backbone ends: nothing is kept of them, and no graph is cut."""

    features: Sequence[tuple[nn.Module, int]]
    reduction: nn.Module | None = None
    path: str | None = None
    name: str = "output"
    cut: bool = True


@dataclass
class HeadForward:
    """`features`: what each feature layer returned, tensors that the output is differentiable in;
    `reduction`: what the reduction layer returned. None: that layer did not run. `calls`: how
    often each feature layer ran. `pooled`: of the only feature layer (N, C, *S), the mean over S,
    which the output is differentiable in instead, for it depends on nothing else of them."""

    features: list[Tensor | None] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    reduction: Tensor | None = None
    pooled: Tensor | None = None


@contextmanager
def ordinary_autograd() -> Iterator[None]:
    """Autograd works inside, whatever the caller's mode (no_grad, inference_mode), and numbers are
    as wide as their tensors, whatever the caller's autocast; then all is as before. Nobody traces
    meanwhile.

    Grad mode is on from the start, and yet the backbone builds no graph: the weights are frozen
    and the input does not require grad. Were it off, a model's own `with torch.no_grad()` around
    its backbone would, at its end, turn it off again behind the feature layer.
    """
    with ExitStack() as modes:
        modes.enter_context(computing())
        modes.enter_context(torch.inference_mode(mode=False))
        modes.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        yield


def forward_head(
    forward: Forward, inputs: Tensor, watched: Watched, backbone: Backbone
) -> HeadForward:
    """Runs the network and keeps what is watched; the hooks are gone afterwards, come what may.

    The first feature layer that runs cuts the graph: what it returns becomes a leaf that requires
    grad. Others behind it stay connected to it. A module that runs more than once counts with its
    last call.
    """
    count = len(watched.features)
    seen = HeadForward([None] * count, [0] * count)
    with ExitStack() as borrowed:
        for handle in _Hooks(watched, backbone, seen).register():
            borrowed.callback(handle.remove)
        with backbone:
            output = forward(inputs)
    if watched.reduction is None:
        seen.reduction = output_tensor(output, watched.name, watched.path)
    return seen


@dataclass
class _Hooks:
    """What is done when a watched module runs. `lent`: copies of the inputs of a module that is
    running, and the inputs themselves."""

    watched: Watched
    backbone: Backbone
    seen: HeadForward
    lent: dict[nn.Module, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        return len(self.watched.features) > 1

    def register(self) -> Iterator[RemovableHandle]:
        if self.watched.cut and self.several:
            for module in dict.fromkeys(module for module, _ in self.watched.features):
                yield module.register_forward_pre_hook(self.lend_copies)
        for slot, (module, _) in enumerate(self.watched.features):
            if self.watched.cut:
                yield module.register_forward_hook(partial(self.keep_features, slot))
            else:
                yield module.register_forward_hook(self.end_backbone)
        if self.watched.reduction is not None:
            yield self.watched.reduction.register_forward_hook(self.keep_reduction)

    def lend_copies(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A layer behind another works on copies: what it did in place to its own input could not
        be replaced by its features, since autograd keeps that very tensor for the backward."""
        given = [a.clone() if isinstance(a, Tensor) and a.requires_grad else a for a in args]
        self.lent[module] = [(a, b) for a, b in zip(given, args, strict=True) if a is not b]
        return tuple(given)

    def keep_features(self, slot: int, module: nn.Module, args: Any, output: Any) -> Any:
        inputs = [one for _, one in floating_tensors(args)]
        for copy, own in self.lent.pop(module, ()):
            if copy._version:  # noqa: SLF001 - the layer has written to it
                own.copy_(copy)
                output = replace_tensor(output, copy, own)
                inputs.append(own)
        tensors = [tensor for _, tensor in floating_tensors(output)]
        index = self.watched.features[slot][1]
        if index >= len(tensors):
            return output
        taken = tensors[index]
        self.seen.calls[slot] += 1
        torch.set_grad_enabled(True)  # the layer may lie in a block of the model's own no_grad
        self.backbone.end()
        # own memory: the map explains the value returned here, whatever is written to it later
        is_behind = taken.requires_grad and self.several
        self.seen.features[slot] = kept = taken.clone() if is_behind else self.backbone.leaf(taken)
        if any(taken is one for one in inputs):
            # an in-place layer: who holds its input holds its output, and must see the leaf too
            taken.copy_(kept)
            if taken.dtype == kept.dtype:
                return output
        return replace_tensor(output, taken, kept.clone())

    def end_backbone(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        self.backbone.end()
        for _, tensor in floating_tensors(output):
            if is_half(tensor.dtype):
                output = replace_tensor(output, tensor, tensor.float())
        return output

    def keep_reduction(self, _module: nn.Module, _args: Any, output: Any) -> None:
        # a copy: what comes behind may write to it, as an in-place ReLU does
        taken = output_tensor(output, self.watched.name, self.watched.path)
        self.seen.reduction = taken.clone()
