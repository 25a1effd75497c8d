"""Normalisations, softmax, and what is left of dropout: nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated

__all__ = ["OPERATORS"]


def _batch_norm(node: Node) -> Compute:
    if node.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise NotTranslated("BatchNormalization in training mode")
    if node.get("spatial", 1) == 0:
        raise NotTranslated("BatchNormalization with spatial=0")
    epsilon = node.get("epsilon", 1e-5)

    def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)

    return batch_norm


def _instance_norm(node: Node) -> Compute:
    epsilon = node.get("epsilon", 1e-5)

    def instance_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        # each channel a group; functional.instance_norm refuses a map of one position
        return torch.group_norm(x, x.shape[1], scale, bias, epsilon)

    return instance_norm


def _group_norm(node: Node) -> Compute:
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)

    def group_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        channels = x.shape[1]
        if len(scale) != channels:  # before opset 21: one number a group
            scale, bias = (value.repeat_interleave(channels // groups) for value in (scale, bias))
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return group_norm


def _layer_norm(node: Node) -> Compute:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    several = len(node.outputs) > 1  # the mean and the inverse of the deviation

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        y = functional.layer_norm(x, x.shape[axis % x.ndim :], eps=epsilon) * scale
        y = y if bias is None else y + bias
        if not several:
            return y
        axes = list(range(axis % x.ndim, x.ndim))
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return y, mean, (variance + epsilon).rsqrt()

    return layer_norm


def _lp_norm(node: Node) -> Compute:
    axis, p = node.get("axis", -1), node.get("p", 2)
    return lambda x: x / x.norm(p, dim=axis, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _mean_variance(node: Node) -> Compute:
    # ONNX's own definition would do, but its inliner forgets the default axes
    axes = node.get("axes", [0, 2, 3])

    def mean_variance(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return mean_variance


def _local_response(node: Node) -> Compute:
    size = node.get("size")
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2

    def local_response(x: Tensor) -> Tensor:
        squares = x.square().flatten(2)[:, None]
        padded = functional.pad(squares, (0, 0, before, after))
        total = functional.avg_pool2d(padded, (size, 1), 1, divisor_override=1)
        return x / torch.pow(bias + alpha / size * total.reshape(x.shape), beta)

    return local_response


def _softmax(node: Node) -> Compute:
    function = torch.log_softmax if node.op == "LogSoftmax" else torch.softmax
    if node.opset >= 13:
        axis = node.get("axis", -1)
        return lambda x: function(x, dim=axis)
    first = node.get("axis", 1)  # over all dimensions from this one on

    def flattened(x: Tensor) -> Tensor:
        return function(x.flatten(first % x.ndim), dim=-1).reshape(x.shape)

    return flattened


def _dropout(node: Node) -> Compute:
    def dropout(x: Tensor, *_ratio_and_mode: Tensor | None) -> Any:
        mask = torch.ones_like(x, dtype=torch.bool) if len(node.outputs) > 1 else None
        return x if mask is None else (x, mask)

    return dropout


OPERATORS: dict[str, Maker] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "Softmax": _softmax,
}
