"""A network as one graph of operations, with the place marked where its feature layer returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from camserve.engine.head import Watched
from camserve.engine.nested import floating_tensors, output_tensor, replace_tensor

__all__ = ["NotSplittable", "Traced", "traced"]


class NotSplittable(Exception):
    """The network cannot be run in two parts; says why, for people."""


@dataclass(frozen=True)
class Traced:
    """graph: of one input tensor; it shares the network's weights. boundary: the node that stands
    for the features, as the head gets them. batch: the symbol that counts the inputs."""

    module: fx.GraphModule
    boundary: fx.Node
    batch: Any


def traced(model: nn.Module, example: Tensor, batch_dimension: int, watched: Watched) -> Traced:
    """Raises NotSplittable for what `torch.export` cannot capture, or what has no single boundary.

    example: two inputs at least; their shape but for the batch is fixed in the graph. watched: one
    feature layer. The network is run once, with hooks; nobody else may use it meanwhile.
    """
    if len(watched.features) != 1:
        raise NotSplittable("several feature layers are explained at once")
    dynamic = {batch_dimension: torch.export.Dim("batch", min=1, max=4096)}
    try:
        with torch.no_grad():
            program = torch.export.export(
                _Marked(model, watched), (example,), dynamic_shapes=(dynamic,), strict=False
            )
    except Exception as error:  # a model may resist in any way, and is then run as it is
        raise NotSplittable(_reason(error)) from error
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)  # noqa: S101 - says torch.export
    found = [node for node in module.graph.nodes if node.target is _boundary().default]
    if len(found) != 1:
        raise NotSplittable(f"the feature layer runs {len(found)} times in one pass")
    if any(node.op == "call_module" or "wrap" in str(node.target) for node in module.graph.nodes):
        raise NotSplittable("it changes torch's modes on its way")
    placeholder = next(node for node in module.graph.nodes if node.op == "placeholder")
    symbol = placeholder.meta["val"].shape[batch_dimension]
    if isinstance(symbol, int):
        raise NotSplittable(_FIXED)
    return Traced(module, found[0], symbol)


_FIXED = "it fixes the number of inputs: x.shape[0] does not, len(x) does"


def _reason(error: Exception) -> str:
    if "specialized" in str(error):
        return _FIXED
    return f"torch.export cannot capture it ({type(error).__name__})"


class _Marked(nn.Module):
    """The network, which passes its features through `boundary` and returns its scores."""

    def __init__(self, model: nn.Module, watched: Watched) -> None:
        super().__init__()
        self.model = model
        self._watched = watched

    def forward(self, inputs: Tensor) -> Tensor:
        watched = self._watched
        (feature_layer, index), *_ = watched.features
        reductions: list[Tensor] = []

        def mark(_module: nn.Module, _args: Any, output: Any) -> Any:
            taken = [tensor for _, tensor in floating_tensors(output)][index]
            return replace_tensor(output, taken, _boundary()(taken))

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            reductions.append(output_tensor(output, watched.name, watched.path).clone())

        borrowed = [feature_layer.register_forward_hook(mark)]
        if watched.reduction is not None:
            borrowed.append(watched.reduction.register_forward_hook(keep))
        try:
            output = self.model(inputs)
        finally:
            for handle in borrowed:
                handle.remove()
        if watched.reduction is None:
            return output_tensor(output, watched.name, watched.path)
        return reductions[-1]


@cache
def _boundary() -> Any:
    """An operation of its own, so that the graph shows where the features are."""

    @torch.library.custom_op("camserve::boundary", mutates_args=())
    def boundary(features: Tensor) -> Tensor:
        return features.clone()

    @boundary.register_fake
    def _(features: Tensor) -> Tensor:
        return torch.empty_like(features)

    return torch.ops.camserve.boundary
