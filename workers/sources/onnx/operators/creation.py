"""Operators that make tensors out of shapes and types. Shapes are computed on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated, integers

__all__ = ["OPERATORS", "bounded", "torch_type"]

MOST_BYTES = 2**32
"""Of a tensor that a file may ask for in a few bytes."""

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.int32, 5: torch.int16,
    6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float32,
    12: torch.int64, 13: torch.int64, 16: torch.float32,
}  # fmt: skip


_UNSIGNED = {4: 0xFFFF, 12: 0xFFFF_FFFF}
"""Types that are held in wider, signed ones: what of a negative number is left."""
_WIDEST = 13
"""uint64, for which there is no wider one."""


def torch_type(number: int) -> torch.dtype:
    """The torch type of a TensorProto's: all floating-point numbers are computed in float32."""
    if number not in _TYPES:
        raise NotTranslated(f"numbers of ONNX's type {number}")
    return _TYPES[number]


def bounded(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Sequence[int]:
    """`shape`, unless the file asks for more memory than any layer needs."""
    if math.prod(map(abs, shape)) * dtype.itemsize > MOST_BYTES:
        raise NotTranslated(f"a tensor of shape {list(shape)}, which is too large")
    return shape


def _shape(node: Node) -> Compute:
    first, last = node.get("start", 0), node.get("end")
    return lambda x: torch.tensor(x.shape[first:last], dtype=torch.int64)


def _constant_of_shape(node: Node) -> Compute:
    value: Tensor = node.get("value", torch.zeros(1))

    def constant_of_shape(shape: Tensor) -> Tensor:
        sizes = bounded(integers(shape) or [], value.dtype)
        return torch.full(list(sizes), value.item(), dtype=value.dtype)

    return constant_of_shape


def _range(_node: Node) -> Compute:
    def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        bounded([int(abs((limit - start) / delta)) + 1], start.dtype)
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)

    return numbers


def _cast(node: Node) -> Compute:
    dtype = torch_type(node.get("to"))
    mask = _UNSIGNED.get(node.get("to"))
    widest = node.get("to") == _WIDEST

    def cast(x: Tensor) -> Tensor:
        if widest and not x.is_meta and bool((x < 0).any()):
            raise NotTranslated("Cast of a negative number to uint64")
        # between kinds of floating-point numbers there is nothing to do: all are computed alike
        if dtype.is_floating_point and x.is_floating_point():
            return x
        return x.to(dtype) if mask is None else (x.to(torch.int64) & mask).to(dtype)

    return cast


def _cast_like(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


def _eye_like(node: Node) -> Compute:
    diagonal, kind = node.get("k", 0), node.get("dtype")

    def eye_like(x: Tensor) -> Tensor:
        dtype = x.dtype if kind is None else torch_type(kind)
        eye = torch.zeros(x.shape, dtype=dtype)
        eye.diagonal(diagonal).fill_(1)
        return eye

    return eye_like


def _dequantize(node: Node) -> Compute:
    axis = node.get("axis", 1)
    if node.get("block_size", 0):
        raise NotTranslated("DequantizeLinear of blocks")

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        if scale.numel() > 1:
            shape = [1] * x.ndim
            shape[axis] = -1
            scale = scale.reshape(shape)
            zero = zero.reshape(shape) if zero is not None else None
        values = x.to(scale.dtype)
        return (values if zero is None else values - zero.to(scale.dtype)) * scale

    return dequantize


OPERATORS: dict[str, Maker] = {
    "Cast": _cast,
    "CastLike": lambda _node: _cast_like,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "EyeLike": _eye_like,
    "Range": _range,
    "Shape": _shape,
    "Size": lambda _node: lambda x: torch.tensor(x.numel()),
}
