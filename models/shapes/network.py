"""The network: a plain convolutional classifier with a 16 x 16 last feature grid.

Four stages, global average pooling and one linear layer, so that Grad-CAM at `stage3` is class
activation mapping (Zhou et al. 2016) divided by the number of positions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn

MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)
"""Input = (RGB / 255 - MEAN) / STD, channel by channel."""

FEATURE_LAYER: Final = "stage3"
"""The layer to explain: (B, 96, 16, 16), after its ReLU."""


def _stage(inputs: int, outputs: int, strides: tuple[int, ...]) -> nn.Sequential:
    """3 x 3 convolutions, one for each stride, each with batch normalisation and a ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, stride in enumerate(strides, start=1):
        channels = inputs if number == 1 else outputs
        layers[f"conv{number}"] = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


class ShapesNetwork(nn.Module):
    """(B, 3, 128, 128) normalised pictures to (B, classes) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _stage(3, 16, (2,))
        self.stage1 = _stage(16, 32, (2, 1))
        self.stage2 = _stage(32, 64, (2, 1))
        self.stage3 = _stage(64, 96, (1, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(96, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        x = self.stage2(self.stage1(self.stem(image)))
        x = self.flatten(self.pool(self.stage3(x)))
        logits: Tensor = self.head(x)
        return logits


def normalise(pictures: Tensor) -> Tensor:
    """(B, h, w, 3) uint8 pictures to the network's (B, 3, h, w) float32 input."""
    scaled = pictures.permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (scaled - mean[:, None, None]) / std[:, None, None]
