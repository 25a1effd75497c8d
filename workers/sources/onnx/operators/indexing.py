"""Gather, scatter, and what else works with indices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated

__all__ = ["OPERATORS"]


def _gather(node: Node) -> Compute:
    axis = node.get("axis", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        along = axis % x.ndim
        flat = indices.reshape(-1).long()
        picked = x.index_select(along, torch.where(flat < 0, flat + x.shape[along], flat))
        return picked.reshape((*x.shape[:along], *indices.shape, *x.shape[along + 1 :]))

    return gather


def _positive(indices: Tensor, size: int) -> Tensor:
    whole = indices.long()
    return torch.where(whole < 0, whole + size, whole)


def _gather_elements(node: Node) -> Compute:
    axis = node.get("axis", 0)
    return lambda x, indices: x.gather(axis, _positive(indices, x.shape[axis]))


def _gather_nd(node: Node) -> Compute:
    batch_dims = node.get("batch_dims", 0)

    def gather_nd(x: Tensor, indices: Tensor) -> Tensor:
        if batch_dims == 0:
            return x[tuple(indices.long().unbind(-1))]
        batch = x.shape[:batch_dims]
        rows = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
        picked = torch.stack([row[tuple(index.long().unbind(-1))] for row, index in rows])
        return picked.reshape(*batch, *picked.shape[1:])

    return gather_nd


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: Node) -> Compute:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")

    def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _positive(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])

    return scatter_elements


def _scatter_nd(node: Node) -> Compute:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise NotTranslated(f"ScatterND with reduction {reduction!r}")

    def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = tuple(indices.long().unbind(-1))
        return x.index_put(places, updates, accumulate=reduction == "add")

    return scatter_nd


def _one_hot(node: Node) -> Compute:
    axis = node.get("axis", -1)

    def one_hot(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth)
        bounded([*indices.shape, count], torch.int64)
        whole = indices.long()
        inside = (whole >= -count) & (whole < count)
        hot = functional.one_hot(torch.where(inside, whole % count, 0), count).bool()
        hot = (hot & inside[..., None]).movedim(-1, axis)
        off, on = values.to(hot.device).unbind()
        return torch.where(hot, on, off)

    return one_hot


def _trilu(node: Node) -> Compute:
    keep = torch.triu if node.get("upper", 1) else torch.tril
    return lambda x, k=None: keep(x, int(k) if k is not None else 0)


def _compress(node: Node) -> Compute:
    axis = node.get("axis")

    def compress(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.nonzero()[:, 0]
        return x.reshape(-1)[chosen] if axis is None else x.index_select(axis, chosen)

    return compress


def _reverse_sequence(node: Node) -> Compute:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)

    def reverse_sequence(x: Tensor, lengths: Tensor) -> Tensor:
        rows = x.movedim((time, batch), (0, 1))
        steps = torch.arange(len(rows), device=x.device)[:, None]
        ends = lengths.to(x.device)[None]
        order = torch.where(steps < ends, ends - 1 - steps, steps)
        turned = rows.gather(0, order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand_as(rows))
        return turned.movedim((0, 1), (time, batch))

    return reverse_sequence


def _grid_sample(node: Node) -> Compute:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", ""), node.get("mode"))
    padding = node.get("padding_mode", "zeros")
    corners = bool(node.get("align_corners", 0))

    def grid_sample(x: Tensor, grid: Tensor) -> Tensor:
        return functional.grid_sample(x, grid, mode or "bilinear", padding, corners)

    return grid_sample


OPERATORS: dict[str, Maker] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "GridSample": _grid_sample,
    "NonZero": lambda _node: lambda x: x.nonzero().T,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Trilu": _trilu,
}
