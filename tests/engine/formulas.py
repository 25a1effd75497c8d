"""Every method's formula from its paper, written once more with loops, NumPy and float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camserve.vocabulary import Method
from tests.engine.curved import Curved

__all__ = [
    "PERTURBING",
    "TRUTHS",
    "Array",
    "GuidedReLU",
    "Known",
    "ablationcam",
    "finercam",
    "gradcam",
    "grown",
    "guided_gradcam",
    "scorecam",
    "truth",
]

Array = NDArray[np.float64]
PERTURBING: tuple[Method, ...] = ("scorecam", "ablationcam")


class GuidedReLU(torch.autograd.Function):
    """By hand: what comes back passes where the output was positive and it is positive itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.clamp(min=0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.where((output > 0) & (slope > 0), slope, 0.0)


class Known:
    """What the formulas need of one input: float64, by calling the network's two halves."""

    def __init__(self, model: Curved, x: Tensor, class_index: int) -> None:
        self.model = copy.deepcopy(model).double()
        self.x = x.double()
        self.class_index = class_index
        leaf = self.model.before(self.x).detach().requires_grad_()
        self.leaf, self.logits = leaf, self.model.after(leaf)[0]
        self.a = leaf.detach()[0].numpy()
        self.y = float(self.logits[class_index].detach())

    def gradient(self, score: Tensor) -> Array:
        (slope,) = torch.autograd.grad(score, self.leaf, retain_graph=True)
        return slope[0].numpy()

    @property
    def g(self) -> Array:
        return self.gradient(self.logits[self.class_index])

    def score(self, x: Tensor) -> float:
        """A whole forward pass of one input."""
        with torch.no_grad():
            return float(self.model(x)[0, self.class_index])

    def positions(self) -> list[tuple[int, ...]]:
        return list(np.ndindex(self.a.shape[1:]))


def weighted(known: Known, weights: Sequence[float]) -> Array:
    total = np.zeros(known.a.shape[1:])
    for k, weight in enumerate(weights):
        for p in known.positions():
            total[p] += weight * known.a[(k, *p)]
    return total


def gradcam(known: Known, g: Array | None = None) -> Array:
    g = known.g if g is None else g
    count = len(known.positions())
    return weighted(known, [sum(g[(k, *p)] for p in known.positions()) / count for k in range(6)])


def gradcam_plus_plus(known: Known) -> Array:
    g, weights = known.g, []
    for k in range(6):
        total, weight = known.a[k].sum(), 0.0
        for p in known.positions():
            slope = g[(k, *p)]
            if slope > 0:
                weight += slope * slope**2 / (2 * slope**2 + total * slope**3 + 1e-6)
        weights.append(weight)
    return weighted(known, weights)


def hirescam(known: Known) -> Array:
    g = known.g
    return sum((g[k] * known.a[k] for k in range(6)), np.zeros(known.a.shape[1:]))


def xgradcam(known: Known) -> Array:
    g = known.g
    return weighted(
        known, [(g[k] * known.a[k]).sum() / (known.a[k].sum() + 1e-7) for k in range(6)]
    )


def layercam(known: Known) -> Array:
    g, total = known.g, np.zeros(known.a.shape[1:])
    for k, p in itertools.product(range(6), known.positions()):
        total[p] += max(g[(k, *p)], 0.0) * known.a[(k, *p)]
    return total


def principal(features: Array) -> Array:
    """By NumPy's SVD; the sign makes the map rise where the sum of the channels does."""
    table = features.reshape(len(features), -1).T
    centred = table - table.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    projection = centred @ directions[0]
    if np.dot(projection, table.sum(1) - table.sum(1).mean()) < 0:
        projection = -projection
    return projection.reshape(features.shape[1:])


def grown(channel: Array, size: tuple[int, ...]) -> Array:
    """Linear, half-pixel centres, edges repeated: every axis in turn, every sample by itself."""
    for axis, count in enumerate(size):
        lines = np.moveaxis(channel, axis, 0)
        samples = []
        for i in range(count):
            centre = min(max((i + 0.5) * len(lines) / count - 0.5, 0), len(lines) - 1)
            low = int(centre)
            high = min(low + 1, len(lines) - 1)
            samples.append(lines[low] * (1 - centre + low) + lines[high] * (centre - low))
        channel = np.moveaxis(np.stack(samples), 0, axis)
    return channel


def scorecam(known: Known, chosen: Sequence[int] = range(6)) -> Array:
    scores = []
    for k in chosen:
        mask = grown(known.a[k], tuple(known.x.shape[2:]))
        span = mask.max() - mask.min()
        mask = (mask - mask.min()) / span if span > 0 else np.zeros_like(mask)
        scores.append(known.score(known.x * torch.from_numpy(mask)))
    shares = np.exp(np.array(scores) - max(scores))
    weights = np.zeros(6)
    weights[list(chosen)] = shares / shares.sum()
    return weighted(known, list(weights))


def ablationcam(known: Known, chosen: Sequence[int] = range(6)) -> Array:
    weights = np.zeros(6)
    for k in chosen:
        without = known.leaf.detach().clone()
        without[:, k] = 0
        with torch.no_grad():
            score = float(known.model.after(without)[0, known.class_index])
        weights[k] = (known.y - score) / abs(known.y)
    return weighted(known, list(weights))


def guided_gradcam(known: Known) -> Array:
    x = known.x.clone().requires_grad_()
    guided = known.model.after(known.model.before(x, GuidedReLU.apply), GuidedReLU.apply)
    (slope,) = torch.autograd.grad(guided[0, known.class_index], x)
    return grown(np.maximum(gradcam(known), 0), tuple(x.shape[2:])) * slope[0].sum(0).numpy()


def finercam(known: Known, comparisons: int = 3, strength: float = 1.0) -> Array:
    others = [c for c in range(len(known.logits)) if c != known.class_index]
    others.sort(key=lambda c: abs(float(known.logits[c].detach()) - known.y))
    maps = [
        gradcam(known, known.gradient(known.logits[known.class_index] - strength * known.logits[d]))
        for d in others[:comparisons]
    ]
    return sum(maps) / len(maps)


TRUTHS: dict[Method, Callable[[Known], Array]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "eigencam": lambda known: principal(known.a),
    "eigengradcam": lambda known: principal(known.a * known.g),
    "scorecam": scorecam,
    "ablationcam": ablationcam,
    "guided-gradcam": guided_gradcam,
    "finercam": finercam,
}


def truth(method: Method, model: Curved, x: Tensor, class_index: int) -> Tensor:
    return torch.from_numpy(TRUTHS[method](Known(model, x, class_index)))
