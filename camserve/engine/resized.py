"""Recognises a tensor that is only resized to become another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["is_resized"]

MODES: dict[int, tuple[str, ...]] = {
    3: ("nearest", "nearest-exact", "linear"),
    4: ("nearest", "nearest-exact", "bilinear", "bicubic"),
    5: ("nearest", "nearest-exact", "trilinear"),
}


def is_resized(tensor: Tensor, output: Tensor) -> bool:
    """Whether some way of torch to resize makes `output` of `tensor`, both (N, C, *S).

    Equal to 1e-3 of the output's largest value, so that half precision passes too.
    """
    if tensor.ndim != output.ndim or tensor.shape[:2] != output.shape[:2]:
        return False
    if tensor.ndim not in MODES:
        return tensor.shape == output.shape and _close(tensor, output)
    return any(
        _close(_resize(tensor, output.shape[2:], mode, align_corners=align), output)
        for mode in MODES[tensor.ndim]
        for align in ((None,) if mode.startswith("nearest") else (False, True))
    )


def _resize(tensor: Tensor, size: torch.Size, mode: str, *, align_corners: bool | None) -> Tensor:
    return functional.interpolate(
        tensor.float(), size=list(size), mode=mode, align_corners=align_corners
    )


def _close(a: Tensor, b: Tensor) -> bool:
    b = b.float()
    return torch.allclose(a.float(), b, rtol=0, atol=1e-3 * float(b.abs().max()))
