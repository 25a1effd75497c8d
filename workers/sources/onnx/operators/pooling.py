"""Pooling over windows, and over all positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated, always
from workers.sources.onnx.operators.windows import Windows, pad

__all__ = ["OPERATORS"]

_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_SUM = (functional.conv1d, functional.conv2d, functional.conv3d)
_MEAN = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _max_pool(node: Node) -> Compute:
    windows = Windows.of(node, node.get("kernel_shape"))
    if len([name for name in node.outputs if name]) > 1:
        raise NotTranslated("MaxPool with an output of indices")
    if len(windows.kernel) > 3:
        raise NotTranslated(f"MaxPool of {len(windows.kernel)} dimensions")
    pool = _MAX[len(windows.kernel) - 1]

    def max_pool(x: Tensor) -> Tensor:
        pads = windows.ceiled(x.shape[2:], windows.padding(x.shape[2:]))
        small = all(a == b and 2 * a <= k for (a, b), k in zip(pads, windows.kernel, strict=True))
        padding = tuple(before for before, _ in pads) if small else 0
        padded = x if small else pad(x, pads, -math.inf)
        return pool(padded, windows.kernel, windows.stride, padding, windows.dilation)

    return max_pool


def _average_pool(node: Node) -> Compute:
    windows = Windows.of(node, node.get("kernel_shape"))
    if len(windows.kernel) > 3:
        raise NotTranslated(f"AveragePool of {len(windows.kernel)} dimensions")
    pool = _MEAN[len(windows.kernel) - 1]
    count_padding = bool(node.get("count_include_pad", 0))

    def average_pool(x: Tensor) -> Tensor:
        pads = windows.padding(x.shape[2:])
        grown = windows.ceiled(x.shape[2:], pads)
        if not any(map(any, grown)) and set(windows.dilation) == {1}:
            return pool(x, windows.kernel, windows.stride)
        ones = torch.ones_like(x[:1, :1])
        counted = pad(ones, pads, 1.0) if count_padding else pad(ones, pads)
        rest = [(0, b[1] - a[1]) for a, b in zip(pads, grown, strict=True)]
        return _window_sum(pad(x, grown), windows) / _window_sum(pad(counted, rest), windows)

    return average_pool


def _window_sum(x: Tensor, windows: Windows) -> Tensor:
    """Sum over each window, channel by channel."""
    add = _SUM[len(windows.kernel) - 1]
    ones = x.new_ones(bounded([1, 1, *windows.kernel]))
    single = x.reshape(-1, 1, *x.shape[2:])
    total = add(single, ones, None, windows.stride, 0, windows.dilation)
    return total.reshape(*x.shape[:2], *total.shape[2:])


def _everywhere(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_lp(node: Node) -> Compute:
    p = node.get("p", 2)
    return lambda x: x.abs().pow(p).sum(_everywhere(x), keepdim=True).pow(1 / p)


OPERATORS: dict[str, Maker] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": always(lambda x: x.mean(_everywhere(x), keepdim=True)),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": always(lambda x: x.amax(_everywhere(x), keepdim=True)),
    "MaxPool": _max_pool,
}
