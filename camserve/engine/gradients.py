"""Vector-Jacobian products of several cotangents at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["vector_jacobian"]


def vector_jacobian(
    outputs: Tensor, inputs: Sequence[Tensor], cotangents: Tensor
) -> list[Tensor] | None:
    """d<cotangents[k], outputs>/d input for every k and input, without touching any `.grad`.

    cotangents: (K, *outputs.shape). Returns (K, *input.shape) for each input, or None if `outputs`
    does not depend on one of them. The graph is kept. One batched backward pass; operations that
    vmap cannot take (a custom `autograd.Function`, say) are differentiated one cotangent at a time.
    """
    if not outputs.requires_grad:
        return None
    if len(cotangents) > 1:
        try:
            return _complete(_gradients(outputs, inputs, cotangents, batched=True))
        except RuntimeError:
            pass  # the loop below either works or raises the true error
    rows = [_gradients(outputs, inputs, cotangent, batched=False) for cotangent in cotangents]
    stacked = [_complete(row) for row in rows]
    known = [row for row in stacked if row is not None]
    if len(known) < len(rows):
        return None
    return [torch.stack(parts) for parts in zip(*known, strict=True)]


def _complete(gradients: tuple[Tensor | None, ...]) -> list[Tensor] | None:
    known = [gradient for gradient in gradients if gradient is not None]
    return known if len(known) == len(gradients) else None


def _gradients(
    outputs: Tensor, inputs: Sequence[Tensor], cotangent: Tensor, *, batched: bool
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(
        outputs,
        list(inputs),
        cotangent,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
