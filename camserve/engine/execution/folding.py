"""A backbone's graph made cheaper without a compiler: norms folded, layouts and weights that suit
the processor."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camserve.engine.precision import DTYPES
from camserve.vocabulary import Precision

__all__ = ["own_bytes", "prepared"]

_ATEN = torch.ops.aten
_CONVOLUTIONS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default)
_WEIGHTED = (*_CONVOLUTIONS, _ATEN.linear.default)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def prepared(backbone: fx.GraphModule, precision: Precision) -> fx.GraphModule | None:
    """The backbone with norms folded into the convolutions before them, weights of convolutions
    with their channels last, and, in half precision, weights that need not be cast any more.

    None if there is nothing to gain. The weights that change are copies; the others are shared.
    """
    graph = copy.deepcopy(backbone.graph)
    module = fx.GraphModule(backbone, graph)
    changed = _fold_norms(module)
    for node in graph.nodes:
        if node.target in _WEIGHTED:
            changed |= _suit(module, node, precision)
    if not changed:
        return None
    _put_channels_last(module)
    graph.eliminate_dead_code()
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return fx.GraphModule(module, graph)  # holds what the graph still uses


def own_bytes(module: Any, shared: fx.GraphModule) -> int:
    """Bytes of the weights of `module` that are not those of `shared`."""
    known = {tensor.data_ptr() for tensor in _weights(shared)}
    own = {tensor.data_ptr(): tensor.nbytes for tensor in _weights(module)}
    return sum(size for place, size in own.items() if place not in known)


def _weights(module: fx.GraphModule) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _fold_norms(module: fx.GraphModule) -> bool:
    """Every norm in evaluation mode whose input is a convolution that nobody else reads."""
    folded = False
    for norm in list(module.graph.nodes):
        if norm.target is not _ATEN.batch_norm.default or norm.args[5]:
            continue
        conv = norm.args[0]
        if conv.target not in _CONVOLUTIONS or len(conv.users) != 1:
            continue
        values = [_constant(module, one) for one in (*norm.args[1:5], *_weights_of(conv))]
        scale, shift, mean, variance, weight, bias = values
        if weight is None or mean is None or variance is None:
            continue
        fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.args[7], scale, shift)
        _set_weights(module, conv, *(one.detach() for one in fused))
        norm.replace_all_uses_with(conv)
        module.graph.erase_node(norm)
        folded = True
    return folded


def _suit(module: fx.GraphModule, node: fx.Node, precision: Precision) -> bool:
    """Its weights as the processor likes them; whether they have changed."""
    weight, bias = (_constant(module, one) for one in _weights_of(node))
    if weight is None or not weight.is_floating_point():
        return False
    suited = weight.to(DTYPES[precision])
    if node.target is not _ATEN.linear.default and weight.ndim in _FORMATS:
        suited = suited.contiguous(memory_format=_FORMATS[weight.ndim])
    same = suited.dtype == weight.dtype and suited.stride() == weight.stride()
    if not same:
        _set_weights(module, node, suited, None if bias is None else bias.to(suited.dtype))
    return not same


def _put_channels_last(module: fx.GraphModule) -> None:
    """The input, if it is convolved: what follows keeps its layout."""
    (inputs,) = (node for node in module.graph.nodes if node.op == "placeholder")
    convolved = [n for n in module.graph.nodes if n.target in _CONVOLUTIONS and n.args[0] is inputs]
    layout = _FORMATS.get(inputs.meta["val"].ndim)
    if convolved and layout is not None:
        with module.graph.inserting_after(inputs):
            arranged = module.graph.call_function(
                _ATEN.contiguous.default, (inputs,), {"memory_format": layout}
            )
        for node in convolved:
            node.replace_input_with(inputs, arranged)


def _weights_of(node: fx.Node) -> tuple[Any, Any]:
    return node.args[1], node.args[2] if len(node.args) > 2 else None


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor of a weight; None of what is computed, or is not there."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value if isinstance(value, Tensor) else None


def _set_weights(
    module: fx.GraphModule, node: fx.Node, weight: Tensor, bias: Tensor | None
) -> None:
    names = []
    for part, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            names.append(f"_{node.name}_{part}_{len(list(module.buffers()))}")
            module.register_buffer(names[-1], value)
    with module.graph.inserting_before(node):
        given = [module.graph.get_attr(name) for name in names]
    rest = node.args[3:]
    node.args = (node.args[0], given[0], given[1] if bias is not None else None, *rest)
