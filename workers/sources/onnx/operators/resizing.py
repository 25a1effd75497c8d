"""Resize and Upsample: each axis by itself, as a choice of items or a product with a matrix."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated, integers

__all__ = ["OPERATORS"]

_COORDINATES = (
    "align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_LONGEST = 2**24  # of an axis: each of its items has a coordinate
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class _Rule:
    """How coordinates are mapped and items weighted; the same for all axes."""

    mode: str
    coordinates: str
    rounding: str
    cubic_a: float
    inside_only: bool
    antialias: bool


@dataclass(frozen=True)
class _Axis:
    """One axis: from `size` items to `target`. `scale`: their ratio, perhaps before rounding."""

    size: int
    target: int
    scale: float


def _resize(node: Node) -> Compute:
    old = node.op == "Upsample" or node.opset < 11
    rule = _Rule(
        mode={"bilinear": "linear"}.get(node.get("mode", "nearest"), node.get("mode", "nearest")),
        coordinates=node.get("coordinate_transformation_mode", "half_pixel")
        if not old
        else "asymmetric",
        rounding="floor" if old else node.get("nearest_mode", "round_prefer_floor"),
        cubic_a=node.get("cubic_coeff_a", -0.75),
        inside_only=bool(node.get("exclude_outside", 0)),
        antialias=bool(node.get("antialias", 0)),
    )
    if rule.coordinates not in _COORDINATES:
        raise NotTranslated(f"Resize with coordinate_transformation_mode {rule.coordinates!r}")

    def resize(
        x: Tensor, *more: Tensor | None
    ) -> Tensor:  # (scales) before opset 11, then (roi, scales, sizes)
        given = [None, *more] if old else list(more)
        scales, sizes = [*given, None, None, None][1:3]
        factors = node.get("scales") if scales is None else scales.reshape(-1).tolist()
        axes = _axes(x, node, factors, integers(sizes))
        bounded([axis.target for axis in axes])
        return _interpolated(x, axes, rule)

    return resize


def _axes(
    x: Tensor, node: Node, factors: list[float] | None, sizes: list[int] | None
) -> list[_Axis]:
    """What to do with every axis of x."""
    along = [axis % x.ndim for axis in node.get("axes") or range(x.ndim)]
    result = [_Axis(size, size, 1.0) for size in x.shape]
    if sizes:
        ratios = [target / x.shape[axis] for axis, target in zip(along, sizes, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(ratios)
            sizes = [math.floor(ratio * x.shape[axis] + 0.5) for axis in along]
        for axis, target, ratio in zip(along, sizes, ratios, strict=True):
            result[axis] = _Axis(x.shape[axis], target, ratio)
    else:
        for axis, ratio in zip(along, factors or [], strict=True):
            result[axis] = _Axis(x.shape[axis], _scaled(x.shape[axis], ratio), ratio)
    return result


def _scaled(size: int, ratio: float) -> int:
    """The size that the network had which was written to the file.

    A file has the ratio in float32, where 0.7 is a little less. A short decimal was one there, too:
    40 times 0.7 is 28. Any other, such as five thirds, is taken as runtimes take it, in float32.
    """
    held = np.float32(ratio)
    decimal = float(f"{held:.6g}")
    if np.float32(decimal) == held:
        return math.floor(size * decimal)
    return math.floor(np.float32(size) * held)


def _interpolated(x: Tensor, axes: list[_Axis], rule: _Rule) -> Tensor:
    if _is_torchs(axes, rule):
        return functional.interpolate(
            x,
            size=[axis.target for axis in axes[2:]],
            mode=_LINEAR[x.ndim],
            align_corners=rule.coordinates == "align_corners",
        )
    for at, axis in enumerate(axes):
        if axis.size == axis.target and axis.scale == 1:
            continue
        if rule.mode == "nearest":
            x = x.index_select(at, torch.from_numpy(_nearest(axis, rule)).to(x.device))
        else:
            matrix = torch.from_numpy(_matrix(axis, rule)).to(x.device, x.dtype)
            x = (x.movedim(at, -1) @ matrix).movedim(-1, at)
    return x


def _is_torchs(axes: list[_Axis], rule: _Rule) -> bool:
    """Whether torch's own linear interpolation, which is faster, computes this."""
    plain = rule.mode == "linear" and not (rule.antialias or rule.inside_only)
    exact = all(math.isclose(axis.target, axis.size * axis.scale, rel_tol=1e-6) for axis in axes)
    still = all(axis.size == axis.target for axis in axes[:2])
    same = rule.coordinates in ("half_pixel", "align_corners")
    return plain and exact and still and same and len(axes) in _LINEAR


def _coordinates(axis: _Axis, rule: _Rule) -> np.ndarray:
    """Where each target item lies between the given ones."""
    if axis.target > _LONGEST:
        raise NotTranslated(f"Resize to {axis.target} items along one axis, which is too large")
    at = np.arange(axis.target, dtype=np.float64)
    wide = axis.size * axis.scale  # of the target, before it was rounded
    centred = (at + 0.5) / axis.scale - 0.5
    match rule.coordinates:
        case "asymmetric":
            return at / axis.scale
        case "align_corners":
            return at * (axis.size - 1) / (wide - 1) if wide != 1 else at * 0
        case "tf_half_pixel_for_nn":
            return centred + 0.5
        case "pytorch_half_pixel" if axis.target <= 1:
            return at * 0
        case "half_pixel_symmetric":
            return centred + axis.size / 2 * (1 - axis.target / wide)
        case _:
            return centred


def _nearest(axis: _Axis, rule: _Rule) -> np.ndarray:
    where = _coordinates(axis, rule)
    rounded = {
        "round_prefer_floor": np.ceil(where - 0.5),
        "round_prefer_ceil": np.floor(where + 0.5),
        "floor": np.floor(where),
        "ceil": np.ceil(where),
    }[rule.rounding]
    return np.asarray(np.clip(rounded, 0, axis.size - 1), dtype=np.int64)


@functools.lru_cache(maxsize=64)
def _matrix(axis: _Axis, rule: _Rule) -> np.ndarray:
    """(size, target): how much of each item goes into each target item."""
    where = _coordinates(axis, rule)
    shrink = min(axis.scale, 1.0) if rule.antialias else 1.0
    reach = (1 if rule.mode == "linear" else 2) / shrink
    bounded([max(axis.target, 1), math.ceil(2 * reach) + 2], torch.float64)
    first = np.floor(where - reach).astype(np.int64)[:, None]
    items = first + np.arange(math.ceil(2 * reach) + 2)  # (target, those within reach)
    weights = _kernel((items - where[:, None]) * shrink, rule)
    if rule.inside_only:
        weights = weights * ((items >= 0) & (items < axis.size))
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros(bounded([axis.size, axis.target], torch.float64))
    np.add.at(matrix, (np.clip(items, 0, axis.size - 1), np.arange(axis.target)[:, None]), weights)
    return matrix


def _kernel(distance: np.ndarray, rule: _Rule) -> np.ndarray:
    t = np.abs(distance)
    if rule.mode == "linear":
        return np.asarray(np.maximum(1 - t, 0))
    a = rule.cubic_a
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


OPERATORS: dict[str, Maker] = {"Resize": _resize, "Upsample": _resize}
