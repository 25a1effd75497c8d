"""The warm-up explanation: proof, before a worker takes jobs, that its device can explain."""

from __future__ import annotations

import torch
from torch import nn

from camserve.engine import ClassIndex, Explainer

__all__ = ["warm_up"]


def warm_up(device: str) -> None:
    """Explain a small network of known outcome on `device`; some milliseconds on a CPU.

    It also initialises what the first explanation would wait for: the device's context, kernels
    and allocator. Raises RuntimeError if the device is missing, or gives a wrong map.
    """
    # a model may be built meanwhile, for which transformers replaces torch's initialisers and the
    # default type, of all threads
    exact = torch.float32
    features, head = nn.Conv2d(1, 2, 1, bias=False, dtype=exact), nn.Linear(2, 2, dtype=exact)
    features.weight.data.fill_(1.0)
    head.weight.data.fill_(0.5)
    head.bias.data.fill_(0.0)
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    picture = torch.arange(16, dtype=exact).reshape(1, 1, 4, 4)
    explainer = Explainer(network.to(device), picture)
    ((attribution,),) = explainer.explain(picture, [[ClassIndex(1)]])
    # a pooled linear head: the map is the mean over channels of weight x activation, over |S|
    expected = picture[0, 0] * 2 * 0.5 / 16
    if not torch.allclose(attribution.map, expected, rtol=1e-3):
        raise RuntimeError(f"device {device!r} computes wrong maps in the warm-up explanation")
