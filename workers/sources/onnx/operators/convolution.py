"""Conv and ConvTranspose, of any number of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated
from workers.sources.onnx.operators.windows import Windows, pad, split

__all__ = ["OPERATORS"]


_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _of_rank(functions: Mapping[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if rank not in functions:
        raise NotTranslated(f"convolution over {rank} dimensions")
    return functions[rank]


def _conv(node: Node) -> Compute:
    group = node.get("group", 1)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        windows = Windows.of(node, weight.shape[2:])
        pads = windows.padding(x.shape[2:])
        if all(before == after for before, after in pads):
            padding = [before for before, _ in pads]
        else:
            x, padding = pad(x, pads), [0] * len(pads)
        convolve = _of_rank(_CONV, len(pads))
        bounded([x.shape[0], weight.shape[0], *windows.count(x.shape[2:], padding)])
        return convolve(x, weight, bias, windows.stride, padding, windows.dilation, group)

    return conv


def _conv_transpose(node: Node) -> Compute:
    group = node.get("group", 1)

    def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        windows = Windows.of(node, weight.shape[2:])
        more = list(node.get("output_padding") or [0] * len(windows.kernel))
        pads = _cropped(node, windows, list(x.shape[2:]), more)
        # torch wants the extra output smaller than the stride: it is put on afterwards
        convolve = _of_rank(_TRANSPOSE, len(pads))
        bounded([x.shape[0], weight.shape[1] * group, *windows.spread(x.shape[2:])])
        y = convolve(x, weight, bias, windows.stride, groups=group, dilation=windows.dilation)
        if any(more):
            shape = (1, -1, *(1,) * len(pads))
            grown = pad(y, [(0, extra) for extra in more])
            if bias is not None:  # the padding lacks it
                inside = pad(torch.ones_like(y[:1, :1]), [(0, extra) for extra in more])
                grown = grown + bias.reshape(shape) * (1 - inside)
            y = grown
        for axis, (before, after) in enumerate(pads, start=2):
            y = y.narrow(axis, before, y.shape[axis] - before - after)
        return y

    return conv_transpose


def _cropped(
    node: Node, windows: Windows, sizes: list[int], more: list[int]
) -> tuple[tuple[int, int], ...]:
    """What is cut off each side of the full output; `more` grows where the output must."""
    full = windows.spread(sizes)
    wanted = node.get("output_shape")
    if wanted is None and windows.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(sizes, windows.stride, strict=True)]
    if wanted is None:
        return windows.padding(sizes)
    surplus = [a + b - c for a, b, c in zip(full, more, wanted[-len(full) :], strict=True)]
    for axis, cut in enumerate(surplus):
        more[axis] += max(-cut, 0)
    # here the standard gives an odd rest to the beginning, unless the mode is SAME_UPPER
    return split([max(cut, 0) for cut in surplus], upper=windows.auto_pad == "SAME_UPPER")


OPERATORS: dict[str, Maker] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
