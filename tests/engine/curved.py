"""A network whose every method can be told by hand, in two halves: before and after its layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.engine.networks import randomised

__all__ = ["SEEDS", "Curved", "Relu", "curved"]

Relu = Callable[[Tensor], Tensor]

SIZES = {1: (14,), 2: (10, 8), 3: (6, 4, 6)}
SEEDS = {1: 35, 2: 27, 3: 26}
"""With these, the map of every method has positions of both signs."""


class Curved(nn.Module):
    """A head whose gradient differs from position to position, and ReLUs of every kind.

    `before` and `after`: the network once more, as plain functions with the ReLU to be chosen.
    """

    def __init__(self, dimensions: int = 2, classes: int = 5) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.stem = conv(3, 4, 3, 1, 1)
        self.features = nn.Sequential(conv(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.tail = conv(6, 7, 3, 1, 1)
        self.head = nn.Linear(7, classes)

    def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
        return relu(self.features[0](relu(self.stem(x))))

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        return self.head(relu(self.tail(features)).square().flatten(2).mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.features(functional.relu(self.stem(x))))


def curved(dimensions: int = 2) -> tuple[Curved, Tensor]:
    """The network and a batch of two inputs, float32."""
    seed = SEEDS[dimensions]
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 3, *SIZES[dimensions], generator=generator)
    return randomised(Curved(dimensions), seed=seed), inputs
