"""Vector-Jacobian products of several cotangents at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["vector_jacobian"]


def vector_jacobian(outputs: Tensor, inputs: Tensor, cotangents: Tensor) -> Tensor | None:
    """d<cotangents[k], outputs>/d inputs for every k, without touching any `.grad`.

    cotangents: (K, *outputs.shape). Returns (K, *inputs.shape), or None if `outputs` does not
    depend on `inputs`. The graph is kept. One batched backward pass; operations that vmap cannot
    take (a custom `autograd.Function`, say) are differentiated one cotangent at a time.
    """
    if not outputs.requires_grad:
        return None
    if len(cotangents) > 1:
        try:
            return _gradient(outputs, inputs, cotangents, batched=True)
        except RuntimeError:
            pass  # the loop below either works or raises the true error
    rows = [_gradient(outputs, inputs, cotangent, batched=False) for cotangent in cotangents]
    known = [row for row in rows if row is not None]
    return torch.stack(known) if known else None


def _gradient(
    outputs: Tensor, inputs: Tensor, cotangent: Tensor, *, batched: bool
) -> Tensor | None:
    (gradient,) = torch.autograd.grad(
        outputs,
        inputs,
        cotangent,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
    return gradient
