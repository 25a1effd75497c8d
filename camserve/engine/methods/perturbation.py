"""Maps whose channel weights come from changing the network's input or features: no gradient, but
a forward pass for each channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ablation_cam", "channel_masks", "most_varied_channels", "score_cam", "upsample"]

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def channel_masks(activations: Tensor, size: tuple[int, ...]) -> Tensor:
    """Each channel up-sampled to the input and scaled to [0, 1] (Wang et al. 2020, eq. 5-6).

    activations: (K, *S). Returns (K, *size), linear with half-pixel centres; a constant channel
    masks everything.
    """
    grown = upsample(activations, size)
    flat = grown.flatten(1)
    low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
    span = high - low
    unit = torch.where(span > 0, (flat - low) / span, torch.zeros_like(flat))
    return unit.reshape(grown.shape)


def score_cam(activations: Tensor, scores: Tensor) -> Tensor:
    """sum_k w_k A_k, w = softmax over k of the masked inputs' scores (Wang et al. 2020, eq. 7-8).

    activations: (K, *S). scores: (..., K), the target's score with the input masked by channel k;
    that of an empty input, which the paper takes off all of them, drops out of the softmax.
    Returns (..., *S).
    """
    weights = scores.double().softmax(-1).to(activations.dtype)
    return _weighted(activations, weights)


def ablation_cam(activations: Tensor, score: Tensor, ablated: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = (y - y_k) / |y| (Desai and Ramaswamy 2020, eq. 3).

    The paper divides by y, which it takes to be positive: of a negative score the map would be
    turned over, evidence against the class shown as evidence for it. Where y is 0 the falls stay
    as they are.

    activations: (K, *S). score: (...), y, the target's score. ablated: (..., K), y_k, the score
    with channel k set to 0. Returns (..., *S).
    """
    scale = torch.where(score == 0, torch.ones_like(score), score.abs()).unsqueeze(-1)
    weights = ((score.unsqueeze(-1) - ablated) / scale).to(activations.dtype)
    return _weighted(activations, weights)


def most_varied_channels(activations: Tensor, count: int | None) -> Tensor:
    """Indices, ascending, of the `count` channels of (K, *S) that vary most over the positions.

    All of them for None. Faster Score-CAM's choice: a flat channel tells no positions apart.
    """
    if count is None or count >= len(activations):
        return torch.arange(len(activations), device=activations.device)
    return activations.flatten(1).var(1, correction=0).topk(count).indices.sort().values


def upsample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(K, *S) to (K, *size), linear with half-pixel centres, edges repeated."""
    if len(size) in _MODES:
        return functional.interpolate(
            maps.unsqueeze(0), size=list(size), mode=_MODES[len(size)], align_corners=False
        ).squeeze(0)
    for axis, length in enumerate(size, 1):  # more axes than torch has a mode for: one by one
        lines = maps.movedim(axis, -1)
        grown = upsample(lines.reshape(-1, lines.shape[-1]), (length,))
        maps = grown.reshape(*lines.shape[:-1], length).movedim(-1, axis)
    return maps


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    maps = weights @ activations.flatten(1)
    return maps.reshape(*weights.shape[:-1], *activations.shape[1:])
