"""The dtypes of half precision, and a network whose features overflow in them alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camserve.vocabulary import Precision
from tests.engine.networks import PlainCNN, randomised

__all__ = ["HALVES", "IMAGES", "TOPS", "Loud", "loud"]

HALVES: dict[Precision, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(6))


class Scaled(nn.Module):
    """To the height `top`, that of a 4, and back: whether it overflows is up to the dtype alone."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=4) / 4 * self.top * (4 / self.top)


TOPS = {
    "float16": 7e4,  # its largest number is 65504
    "bfloat16": 3.398e38,  # 3.3895e38; 3.4028e38 is float32's
}


class Loud(PlainCNN):
    """Features of 4 overflow in half precision, and only there."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.scaled = Scaled(TOPS[precision])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scaled(self.features(x)).flatten(2).mean(2))


def loud(precision: str) -> tuple[Loud, Tensor]:
    """The network and two inputs: with features of 4 and more, and of at most 1."""
    model = randomised(Loud(precision))
    with torch.no_grad():
        for conv in (model.features[0], model.features[2]):
            conv.bias.zero_()  # so that the features grow with the input
        tops = [float(model.features(image[None]).max()) for image in IMAGES[:2]]
    return model, torch.stack([5 * IMAGES[0] / tops[0], IMAGES[1] / tops[1]])
