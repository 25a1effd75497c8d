"""Grad-CAM itself: from activations and gradients to a map."""

from __future__ import annotations

from torch import Tensor

from camserve.errors import ShapeMismatch

__all__ = ["grad_cam"]


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Signed Grad-CAM map (Selvaraju et al. 2017, eq. 1-2, before the ReLU).

    activations, gradients: (N, K, *S), same device and dtype, S any number of dimensions (one at
    least). `gradients` may have leading dimensions for several targets: (..., N, K, *S).
    Returns (..., N, *S): sum over k of mean_S(gradients_k) * activations_k.
    Raises ShapeMismatch when the shapes differ.
    """
    leading = gradients.ndim - activations.ndim
    if leading < 0 or activations.ndim < 3 or gradients.shape[leading:] != activations.shape:
        raise ShapeMismatch(
            f"activations {tuple(activations.shape)} and gradients {tuple(gradients.shape)} "
            "must both be (N, K, *S)"
        )
    weights = gradients.flatten(leading + 2).mean(-1)  # (..., N, K)
    maps = weights.unsqueeze(-2) @ activations.flatten(2)  # (..., N, 1, prod S)
    return maps.reshape(*weights.shape[:-1], *activations.shape[2:])
