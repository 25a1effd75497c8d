"""Operators that treat each number by itself, with broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.node import Compute, Maker, Node, always

__all__ = ["OPERATORS"]


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    def make(node: Node) -> Compute:
        if not node.get("broadcast"):
            return compute
        axis = node.get("axis")  # before opset 7: where the second operand's dimensions begin

        def aligned(left: Tensor, right: Tensor) -> Tensor:
            at = left.ndim - right.ndim if axis is None else axis % left.ndim
            after = left.ndim - at - right.ndim
            return compute(left, right.reshape((*right.shape, *(1,) * after)))

        return aligned

    return make


def _variadic(compute: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    return always(lambda *values: functools.reduce(compute, values))


def _divide(left: Tensor, right: Tensor) -> Tensor:
    whole = not (left.is_floating_point() or right.is_floating_point())
    return torch.div(left, right, rounding_mode="trunc" if whole else None)


def _mod(node: Node) -> Compute:
    return torch.fmod if node.get("fmod", 0) else torch.remainder


def _clip(node: Node) -> Compute:
    low, high = node.get("min"), node.get("max")  # attributes before opset 11, then inputs

    def clip(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
        if low is not None or high is not None:
            return torch.clamp(x, low, high)
        if least is None and most is None:
            return x
        return torch.clamp(x, _like(least, x), _like(most, x))

    return clip


def _like(bound: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bound is None else bound.to(x.dtype)


def _prelu(node: Node) -> Compute:
    def prelu(x: Tensor, slope: Tensor) -> Tensor:
        if node.opset < 7 and slope.numel() > 1:  # one slope a channel, not yet broadcast
            slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
        return torch.where(x < 0, x * slope, x)

    return prelu


def _gelu(node: Node) -> Compute:
    approximate = node.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _selu(node: Node) -> Compute:
    alpha = node.get("alpha", 1.67326319217681884765625)
    gamma = node.get("gamma", 1.05070102214813232421875)
    return lambda x: gamma * functional.elu(x, alpha)


def _hard_sigmoid(node: Node) -> Compute:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _shrink(node: Node) -> Compute:
    bias, lambd = node.get("bias", 0.0), node.get("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))

    return shrink


def _isinf(node: Node) -> Compute:
    negative, positive = node.get("detect_negative", 1), node.get("detect_positive", 1)

    def isinf(x: Tensor) -> Tensor:
        below = torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)
        return below | torch.isposinf(x) if positive else below

    return isinf


def _thresholded_relu(node: Node) -> Compute:
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _swish(node: Node) -> Compute:
    alpha = node.get("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


OPERATORS: dict[str, Maker] = {
    "Abs": always(torch.abs),
    "Acos": always(torch.acos),
    "Acosh": always(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": always(torch.asin),
    "Asinh": always(torch.asinh),
    "Atan": always(torch.atan),
    "Atanh": always(torch.atanh),
    "BitwiseAnd": always(torch.bitwise_and),
    "BitwiseNot": always(torch.bitwise_not),
    "BitwiseOr": always(torch.bitwise_or),
    "BitwiseXor": always(torch.bitwise_xor),
    "Ceil": always(torch.ceil),
    "Celu": lambda node: functools.partial(functional.celu, alpha=node.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": always(torch.cos),
    "Cosh": always(torch.cosh),
    "Div": _binary(_divide),
    "Elu": lambda node: functools.partial(functional.elu, alpha=node.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": always(torch.erf),
    "Exp": always(torch.exp),
    "Floor": always(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": always(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": always(functional.hardswish),
    "Identity": always(lambda x: x),
    "IsInf": _isinf,
    "IsNaN": always(torch.isnan),
    "LeakyRelu": lambda node: functools.partial(
        functional.leaky_relu, negative_slope=node.get("alpha", 0.01)
    ),
    "Less": _binary(torch.lt),
    "LessOrEqual": always(torch.le),
    "Log": always(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": always(lambda *values: functools.reduce(torch.add, values) / len(values)),
    "Min": _variadic(torch.minimum),
    "Mish": always(functional.mish),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Neg": always(torch.neg),
    "Not": always(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(_power),
    "Reciprocal": always(torch.reciprocal),
    "Relu": always(torch.relu),
    "Round": always(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": always(torch.sigmoid),
    "Sign": always(torch.sign),
    "Sin": always(torch.sin),
    "Sinh": always(torch.sinh),
    "Softplus": always(functional.softplus),
    "Softsign": always(functional.softsign),
    "Sqrt": always(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": _swish,
    "Tan": always(torch.tan),
    "Tanh": always(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": always(torch.where),
    "Xor": _binary(torch.logical_xor),
}
