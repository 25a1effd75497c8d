"""Operators that move, cut, join and repeat numbers, and change none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated, integers

__all__ = ["OPERATORS"]


def _reshape(node: Node) -> Compute:
    zero_is_zero = bool(node.get("allowzero", 0))

    def reshape(x: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes = integers(shape if shape is not None else node.get("shape")) or []
        if not zero_is_zero:  # a zero stands for the input's size
            sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
        return x.reshape(tuple(sizes))

    return reshape


def _flatten(node: Node) -> Compute:
    axis = node.get("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        rows = math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim])
        return x.reshape(rows, -1) if x.numel() else x.reshape(rows, x.numel() // max(rows, 1))

    return flatten


def _axes(node: Node, axes: Tensor | None) -> list[int] | None:
    return integers(axes) if axes is not None else node.get("axes")


def _squeeze(node: Node) -> Compute:
    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = _axes(node, axes)
        return x.squeeze() if given is None else x.squeeze(tuple(given))

    return squeeze


def _unsqueeze(node: Node) -> Compute:
    def unsqueeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = _axes(node, axes) or []
        for axis in sorted(axis % (x.ndim + len(given)) for axis in given):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _transpose(node: Node) -> Compute:
    order = node.get("perm")
    return lambda x: x.permute(order if order is not None else tuple(reversed(range(x.ndim))))


def _concat(node: Node) -> Compute:
    axis = node.get("axis", 1)
    return lambda *parts: torch.cat(parts, axis)


def _split(node: Node) -> Compute:
    axis, outputs = node.get("axis", 0), node.get("num_outputs") or len(node.outputs)

    def split(x: Tensor, parts: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = integers(parts) if parts is not None else node.get("split")
        if sizes is None:  # equal parts, of which the last may be smaller
            most = -(-x.shape[axis] // outputs)
            sizes = [max(min(most, x.shape[axis] - most * at), 0) for at in range(outputs)]
        return _parts(x, sizes, axis)

    return split


def _parts(x: Tensor, sizes: int | list[int], axis: int) -> tuple[Tensor, ...]:
    return tuple(torch.split(x, sizes, axis))


def _slice(node: Node) -> Compute:
    def cut(
        x: Tensor,
        starts: Tensor | None = None,
        ends: Tensor | None = None,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        first = integers(starts if starts is not None else node.get("starts")) or []
        last = integers(ends if ends is not None else node.get("ends")) or []
        along = _axes(node, axes) or list(range(len(first)))
        strides = integers(steps) or [1] * len(first)
        for start, end, axis, step in zip(first, last, along, strides, strict=True):
            x = _strided(x, axis % x.ndim, start, end, step)
        return x

    return cut


def _strided(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    picked = range(*slice(start, end, step).indices(x.shape[axis]))
    if step < 0 and end < -x.shape[axis]:  # Python's slices reach the first item otherwise
        picked = range(*slice(start, None, step).indices(x.shape[axis]))
    if step > 0:
        index = [slice(None)] * axis + [slice(picked.start, max(picked.stop, picked.start), step)]
        return x[tuple(index)]
    return x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))


def _expand(_node: Node) -> Compute:
    def expand(x: Tensor, shape: Tensor) -> Tensor:
        sizes = integers(shape) or []  # a one stands for the input's size
        sizes = [1] * (x.ndim - len(sizes)) + sizes
        own = [1] * (len(sizes) - x.ndim) + list(x.shape)
        return x.expand(bounded([b if a == 1 else a for a, b in zip(sizes, own, strict=True)]))

    return expand


def _tile(node: Node) -> Compute:
    if node.opset < 6:
        raise NotTranslated("Tile of opset 1")

    def tile(x: Tensor, repeats: Tensor) -> Tensor:
        times = integers(repeats) or []
        bounded([size * time for size, time in zip(x.shape, times, strict=True)])
        return x.repeat(times) if times else x

    return tile


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(node: Node) -> Compute:
    mode = node.get("mode", "constant")
    if mode not in _PAD_MODES:
        raise NotTranslated(f"Pad with mode {mode!r}")

    def pad(
        x: Tensor,
        pads: Tensor | None = None,
        value: Tensor | None = None,
        axes: Tensor | None = None,
    ) -> Tensor:
        sides = integers(pads if pads is not None else node.get("pads", node.get("paddings"))) or []
        half = len(sides) // 2
        along = integers(axes) or list(range(x.ndim - half, x.ndim))
        fill = float(value) if value is not None else node.get("value", 0.0)
        for axis, before, after in zip(along, sides[:half], sides[half:], strict=True):
            if before or after:
                bounded([*x.shape[:axis], x.shape[axis] + before + after, *x.shape[axis:][1:]])
                x = _pad_axis(x, axis, (before, after), mode=mode, fill=fill)
        return x

    return pad


def _pad_axis(x: Tensor, axis: int, amounts: tuple[int, int], *, mode: str, fill: float) -> Tensor:
    """One axis at a time: torch's other modes know the last dimensions only. Negative: cut off."""
    last = x.movedim(axis, -1)
    before, after = amounts
    if mode == "constant":
        return functional.pad(last, amounts, value=fill).movedim(-1, axis)
    if before < 0 or after < 0:
        last = last[..., max(-before, 0) : last.shape[-1] - max(-after, 0)]
    rows = last.reshape(1, -1, last.shape[-1])
    sides = (max(before, 0), max(after, 0))
    padded = functional.pad(rows, sides, mode=_PAD_MODES[mode])
    return padded.reshape(*last.shape[:-1], -1).movedim(-1, axis)


def _depth_to_space(node: Node) -> Compute:
    block, mode = node.get("blocksize"), node.get("mode", "DCR")

    def depth_to_space(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rest = channels // block**2
        if mode == "DCR":
            blocks = x.reshape(batch, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
        else:
            blocks = x.reshape(batch, rest, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(batch, rest, height * block, width * block)

    return depth_to_space


def _space_to_depth(node: Node) -> Compute:
    block = node.get("blocksize")
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)

    def space_to_depth(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // block, block, width // block, block)
        deep = blocks.permute(order)
        return deep.reshape(batch, channels * block**2, height // block, width // block)

    return space_to_depth


def _split_to_sequence(node: Node) -> Compute:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))

    def split_to_sequence(x: Tensor, parts: Tensor | None = None) -> list[Tensor]:
        if parts is None:
            return list(_parts(x, 1, axis)) if keep else list(x.unbind(axis))
        sizes: Any = integers(parts)
        return list(_parts(x, sizes[0] if parts.ndim == 0 else sizes, axis))

    return split_to_sequence


def _join_sequence(node: Node) -> Compute:
    axis, join = node.get("axis"), torch.stack if node.get("new_axis", 0) else torch.cat
    return lambda parts: join(parts, axis)


def _item(parts: Sequence[Tensor], at: Tensor) -> Tensor:
    return parts[int(at)]


OPERATORS: dict[str, Maker] = {
    "Concat": _concat,
    "ConcatFromSequence": _join_sequence,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "SequenceAt": lambda _node: _item,
    "SequenceConstruct": lambda _node: lambda *parts: list(parts),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
