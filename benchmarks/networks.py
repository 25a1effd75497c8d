"""The networks that are measured, with random weights: nothing is downloaded.

Time does not depend on weights, but the error of a map does: in a deep network that was never
trained a rounding grows from layer to layer until it is another map. So it is brought near to what
training leaves: what normalises is fitted to the inputs, and residual branches add a fifth of what
they would (trained ResNets have gains of 0.2 to 0.4 there; Goyal et al. 2017 start from 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from workers.sources.libraries import hide_broken_torchvision

__all__ = ["NETWORKS", "TINY", "Network", "pictures"]

CLASSES = 1000
BRANCH_GAIN = 0.2
# the last norm of a residual branch, by the class of the block
LAST_NORMS = {
    "ResNetBottleNeckLayer": "layer.2.normalization",
    "MobileNetV2InvertedResidual": "reduce_1x1.normalization",
    "Residual3d": "second_norm",
}


@dataclass(frozen=True)
class Network:
    """name, the shape of one input, and what builds it. compiles: whether there is time to compile
    it, too, for the optimised execution."""

    name: str
    shape: tuple[int, ...]
    _build: Callable[[], nn.Module]
    compiles: bool = False

    def build(self) -> nn.Module:
        """In evaluation mode; the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self._build()
            damp_branches(model)
            fit_norms(model, pictures(8, self.shape))
        return model.eval()


def pictures(count: int, shape: tuple[int, ...]) -> Tensor:
    """(count, C, *S) inputs that are smooth as pictures are, with mean 0 and deviation 1."""
    dice = torch.Generator().manual_seed(count)
    coarse = torch.randn(
        count, shape[0], *(max(2, side // 16) for side in shape[1:]), generator=dice
    )
    mode = "bilinear" if len(shape) == 3 else "trilinear"
    smooth = nn.functional.interpolate(coarse, shape[1:], mode=mode)
    return (smooth - smooth.mean()) / smooth.std() + 0.1 * torch.randn(smooth.shape, generator=dice)


def damp_branches(model: nn.Module) -> None:
    """Have residual branches add what they add in trained networks."""
    for block in model.modules():
        if path := LAST_NORMS.get(type(block).__name__):
            cast("Tensor", block.get_submodule(path).weight).data.mul_(BRANCH_GAIN)


def fit_norms(model: nn.Module, inputs: Tensor) -> None:
    """Set the running statistics of batch norms to those of `inputs`."""
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the average of all batches, of which there is one
    model.train()
    with torch.no_grad():
        model(inputs)
    model.eval()


def _of_transformers(name: str, **options: Any) -> nn.Module:
    hide_broken_torchvision()  # transformers would stumble over it
    import transformers  # noqa: PLC0415

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
    return cast("nn.Module", getattr(transformers, f"{name}ForImageClassification")(config))


class Residual3d(nn.Module):
    """The basic block of a residual network, for volumes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm3d(width)
        self.second = nn.Conv3d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm3d(width)
        self.shortcut = nn.Sequential(
            nn.Conv3d(channels, width, 1, stride, bias=False), nn.BatchNorm3d(width)
        )

    def forward(self, volumes: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(volumes)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(volumes))


def _resnet_3d() -> nn.Module:
    """A 3-D ResNet-10 of half the usual width, as for medical volumes."""
    widths = (32, 32, 64, 128, 256)
    pairs = itertools.pairwise(widths)
    blocks = [Residual3d(one, other, 1 + (number > 0)) for number, (one, other) in enumerate(pairs)]
    stem = [nn.Conv3d(1, 32, 7, 2, 3, bias=False), nn.BatchNorm3d(32), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(256, CLASSES)
    )


SQUARE = (3, 224, 224)
NETWORKS = {
    "resnet50": Network("ResNet-50", SQUARE, lambda: _of_transformers("ResNet"), compiles=True),
    "mobilenetv2": Network("MobileNetV2", SQUARE, lambda: _of_transformers("MobileNetV2")),
    "convnext": Network(
        "ConvNeXt-T",
        SQUARE,
        lambda: _of_transformers("ConvNext", layer_scale_init_value=BRANCH_GAIN),
    ),
    "vit": Network("ViT-B/16", SQUARE, lambda: _of_transformers("ViT")),
    "resnet3d": Network("3-D ResNet-10", (1, 32, 64, 64), _resnet_3d),
}
TINY = Network(
    "a tiny ResNet",
    (3, 32, 32),
    lambda: _of_transformers(
        "ResNet", embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
    ),
)
