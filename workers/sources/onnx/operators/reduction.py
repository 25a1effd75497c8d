"""Reductions over axes, and what looks along one axis."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.node import Compute, Maker, Node, integers

__all__ = ["OPERATORS"]


class Reduce(Protocol):
    """Over some axes, which stay as ones if `keep`."""

    def __call__(self, x: Tensor, axes: list[int], *, keep: bool) -> Tensor: ...


def _reduction(reduce: Reduce) -> Maker:
    def make(node: Node) -> Compute:
        keep, idle = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))

        def over(x: Tensor, axes: Tensor | None = None) -> Tensor:
            # an attribute before opset 18 (13 for ReduceSum), then an input
            given = integers(axes) if axes is not None else node.get("axes")
            if not given:
                if idle:
                    return reduce(x[None], [0], keep=False)
                given = list(range(x.ndim))
            if not x.ndim:
                return reduce(x[None], [0], keep=False)
            return reduce(x, [axis % x.ndim for axis in given], keep=keep)

        return over

    return make


def _product(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _of_floats(reduce: Reduce) -> Reduce:
    """Of whole numbers, as sizes are, what the result has behind the point is cut off."""

    def reduced(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
        if x.is_floating_point():
            return reduce(x, axes, keep=keep)
        return reduce(x.double(), axes, keep=keep).to(x.dtype)

    return reduced


def _arg_extremum(node: Node) -> Compute:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    last = bool(node.get("select_last_index", 0))
    find = torch.argmax if node.op == "ArgMax" else torch.argmin

    def arg_extremum(x: Tensor) -> Tensor:
        if last:
            return torch.rsub(find(x.flip(axis), dim=axis, keepdim=keep), x.shape[axis] - 1)
        return find(x, dim=axis, keepdim=keep)

    return arg_extremum


def _top_k(node: Node) -> Compute:
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))

    def top_k(x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        k = node.get("k") if count is None else int(count)
        # of equal values the first: topk does not promise that, a stable sort does
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return top_k


def _cumulative_sum(node: Node) -> Compute:
    exclusive, reverse = node.get("exclusive", 0), node.get("reverse", 0)

    def cumulative_sum(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis)
        turned = x.flip(along) if reverse else x
        total = turned.cumsum(along, dtype=x.dtype)
        total = total - turned if exclusive else total
        return total.flip(along) if reverse else total

    return cumulative_sum


def _hardmax(node: Node) -> Compute:
    axis = node.get("axis", -1 if node.opset >= 13 else 1)

    def hardmax(x: Tensor) -> Tensor:
        rows = x.flatten(axis % x.ndim) if node.opset < 13 else x.movedim(axis, -1)
        one = functional.one_hot(rows.argmax(-1), rows.shape[-1]).to(x.dtype)
        return one.reshape(x.shape) if node.opset < 13 else one.movedim(-1, axis)

    return hardmax


OPERATORS: dict[str, Maker] = {
    "ArgMax": _arg_extremum,
    "ArgMin": _arg_extremum,
    "CumSum": _cumulative_sum,
    "Hardmax": _hardmax,
    "ReduceL1": _reduction(lambda x, axes, *, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(
        _of_floats(lambda x, axes, *, keep: torch.linalg.vector_norm(x, 2, axes, keep))
    ),
    "ReduceLogSum": _reduction(
        _of_floats(lambda x, axes, *, keep: x.sum(axes, keepdim=keep).log())
    ),
    "ReduceLogSumExp": _reduction(
        _of_floats(lambda x, axes, *, keep: x.logsumexp(axes, keepdim=keep))
    ),
    "ReduceMax": _reduction(lambda x, axes, *, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(_of_floats(lambda x, axes, *, keep: x.mean(axes, keepdim=keep))),
    "ReduceMin": _reduction(lambda x, axes, *, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, *, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceSumSquare": _reduction(lambda x, axes, *, keep: x.square().sum(axes, keepdim=keep)),
    "TopK": _top_k,
}
