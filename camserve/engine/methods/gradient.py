"""Maps of activations and the score's gradient in them: one forward and one head's backward.

All take activations A, (N, K, *S), and gradients G, (..., N, K, *S) with leading dimensions for
several targets, of the same device and dtype; S is any number of dimensions, one at least. All
return signed maps (..., N, *S), before the ReLU that their papers end with, and raise ShapeMismatch
when the shapes differ. w_k is the weight of channel k, a mean or sum runs over all positions of S.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camserve.errors import ShapeMismatch

__all__ = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "x_grad_cam"]


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = mean(G_k) (Selvaraju et al. 2017, eq. 1-2)."""
    positions = gradients.flatten(_lead(activations, gradients) + 2)
    # the same at all of them, as behind a pooling, and held once
    weights = positions.select(-1, 0) if positions.stride(-1) == 0 else positions.mean(-1)
    return _weighted(activations, weights)


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = sum(a_k ReLU(G_k)) (Chattopadhay et al. 2018, eq. 5, 6, 19).

    a_k = G_k^2 / (2 G_k^2 + sum(A_k) G_k^3 + 1e-6), 0 where G_k is 0: the closed form for the
    exponential of the score.
    """
    lead = _lead(activations, gradients)
    slopes = gradients.flatten(lead + 2)  # (..., N, K, P)
    squares = slopes.square()
    sums = activations.flatten(2).sum(-1, keepdim=True)
    shares = squares / (2 * squares + sums * squares * slopes + 1e-6)
    return _weighted(activations, (shares * slopes.clamp(min=0)).sum(-1))


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k G_k A_k (Draelos and Carin 2020, eq. 4): the gradient is not averaged."""
    lead = _lead(activations, gradients)
    return (gradients * activations).sum(lead + 1)


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = sum(G_k A_k) / (sum(A_k) + 1e-7) (Fu et al. 2020, eq. 8)."""
    lead = _lead(activations, gradients)
    weights = (gradients * activations).flatten(lead + 2).sum(-1)
    return _weighted(activations, weights / (activations.flatten(2).sum(-1) + 1e-7))


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k ReLU(G_k) A_k (Jiang et al. 2021, eq. 5-6)."""
    lead = _lead(activations, gradients)
    return (gradients.clamp(min=0) * activations).sum(lead + 1)


def _lead(activations: Tensor, gradients: Tensor) -> int:
    """How many leading dimensions the gradients have for several targets."""
    lead = gradients.ndim - activations.ndim
    if lead < 0 or activations.ndim < 3 or gradients.shape[lead:] != activations.shape:
        raise ShapeMismatch(
            f"activations {tuple(activations.shape)} and gradients {tuple(gradients.shape)} "
            "must both be (N, K, *S)"
        )
    return lead


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """sum over k of weights (..., N, K) times activations (N, K, *S): (..., N, *S)."""
    of_rows = weights.reshape(-1, *weights.shape[-2:])  # (T, N, K)
    # a matrix of targets for each row: one vector for each would read, and copy, all activations
    # once a target
    maps = torch.bmm(of_rows.transpose(0, 1), activations.flatten(2)).transpose(0, 1)
    return maps.reshape(*weights.shape[:-1], *activations.shape[2:])
