"""Maps of the main direction in which the channels vary over the positions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["eigen_cam", "eigen_grad_cam"]


def eigen_cam(activations: Tensor) -> Tensor:
    """Projection on the first principal component (Muhammad and Yeasin 2020, eq. 2-3).

    activations: (N, K, *S), S one dimension at least. Returns (N, *S): the centred positions x
    channels matrix times its first right singular vector. A singular vector has no sign of its
    own: here the map rises where the sum of the channels does. No target enters.
    """
    flat = activations.flatten(2).transpose(1, 2).double()  # (N, P, K)
    finite = flat.isfinite().flatten(1).all(1)
    centred = torch.where(finite[..., None, None], flat, 0.0)
    centred = centred - centred.mean(-2, keepdim=True)
    projection = _first_component(centred)
    agreement = (projection * centred.sum(-1)).sum(-1, keepdim=True)
    projection = torch.where(agreement < 0, -projection, projection)
    projection = torch.where(finite[..., None], projection, torch.nan)
    return projection.reshape(len(flat), *activations.shape[2:]).to(activations.dtype)


def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """`eigen_cam` of gradients times activations (the class-discriminative form of
    pytorch-grad-cam): (..., N, K, *S) to (..., N, *S)."""
    lead = gradients.ndim - activations.ndim
    products = gradients * activations
    # all that comes before K is a batch
    maps = eigen_cam(products.flatten(0, lead))
    return maps.reshape(*gradients.shape[: lead + 1], *gradients.shape[lead + 2 :])


def _first_component(centred: Tensor) -> Tensor:
    """(N, P) projection of (N, P, K) on its first right singular vector, of either sign.

    By the smaller of the two Gram matrices: an SVD would compute all components to full precision.
    """
    positions, channels = centred.shape[-2:]
    if channels <= positions:
        _, vectors = torch.linalg.eigh(centred.mT @ centred)
        projection: Tensor = (centred @ vectors[..., -1:]).squeeze(-1)
        return projection
    values, vectors = torch.linalg.eigh(centred @ centred.mT)
    along: Tensor = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    return along
