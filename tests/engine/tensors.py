"""Random tensors that are the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SHAPES", "random"]

SHAPES = {1: (2, 9), 2: (2, 6, 5), 3: (2, 4, 3, 5)}
"""(K, *S) of one, two and three dimensions."""


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
