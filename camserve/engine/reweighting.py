"""A model with other weights than its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Reweighted"]


@dataclass(frozen=True)
class Reweighted:
    """The model as a function of its input, with these weights instead of its own, by name."""

    model: nn.Module
    weights: Mapping[str, Tensor]

    def __call__(self, inputs: Tensor) -> Any:
        return torch.func.functional_call(self.model, dict(self.weights), (inputs,))
