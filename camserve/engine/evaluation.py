"""Put a map to the test: does the score follow it, and does it follow the weights?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine.methods.perturbation import upsample
from camserve.vocabulary import Baseline

__all__ = [
    "Curve",
    "ScoreOf",
    "deletion",
    "insertion",
    "joint_map",
    "rank_correlation",
    "shuffled_weights",
]

BLUR = 0.05
"""Standard deviation of the blur, as a share of each side: 11 pixels of 224."""

ScoreOf = Callable[[Tensor], Tensor]
"""(m, C, *S) inputs to (m) scores."""


@dataclass(frozen=True)
class Curve:
    """Scores as positions are changed step by step, the first of none; `area` is the mean height
    of the line through them."""

    scores: tuple[float, ...]
    area: float


def deletion(
    score_of: ScoreOf,
    inputs: Tensor,
    cam: Tensor,
    *,
    steps: int,
    baseline: Baseline,
    chunk: int = 8,
) -> Curve:
    """Scores while the positions are removed, the most important first (Petsiuk et al. 2018,
    alg. 1).

    inputs: (C, *S), one of them. cam: (*S). A small area is good: what is removed first mattered.
    """
    start, end = inputs, baseline_of(inputs, baseline)
    return _curve(score_of, start, end, cam, steps=steps, chunk=chunk)


def insertion(
    score_of: ScoreOf,
    inputs: Tensor,
    cam: Tensor,
    *,
    steps: int,
    baseline: Baseline,
    chunk: int = 8,
) -> Curve:
    """Scores while the positions are restored, the most important first (Petsiuk et al. 2018,
    alg. 1). A large area is good."""
    start, end = baseline_of(inputs, baseline), inputs
    return _curve(score_of, start, end, cam, steps=steps, chunk=chunk)


def _curve(
    score_of: ScoreOf, start: Tensor, end: Tensor, cam: Tensor, *, steps: int, chunk: int
) -> Curve:
    positions = cam.numel()
    rank = torch.empty(positions, dtype=torch.long, device=start.device)
    order = cam.flatten().to(start.device).argsort(descending=True, stable=True)
    rank[order] = torch.arange(positions, device=start.device)
    counts = [round(positions * step / steps) for step in range(steps + 1)]
    scores: list[float] = []
    for first in range(0, len(counts), chunk):
        part = torch.tensor(counts[first : first + chunk], device=start.device)
        changed = (rank < part[:, None]).reshape(-1, 1, *cam.shape)  # (m, 1, *S)
        scores += score_of(torch.where(changed, end, start)).tolist()
    heights = [(a + b) / 2 for a, b in pairwise(scores)]
    return Curve(tuple(scores), sum(heights) / len(heights))


def baseline_of(inputs: Tensor, kind: Baseline) -> Tensor:
    """What stands in for a removed position of (C, *S): of its own shape.

    `blur`: a Gaussian of BLUR of each side, edges repeated; `mean`: of each channel; `zero`.
    """
    if kind == "zero":
        return torch.zeros_like(inputs)
    if kind == "mean":
        mean = inputs.flatten(1).mean(1)
        return mean.reshape(-1, *[1] * (inputs.ndim - 1)).expand_as(inputs)
    blurred = inputs
    for axis in range(1, inputs.ndim):
        blurred = _blurred(blurred, axis)
    return blurred


def _blurred(tensor: Tensor, axis: int) -> Tensor:
    sigma = max(BLUR * tensor.shape[axis], 0.5)
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=tensor.dtype, device=tensor.device)
    kernel = (-0.5 * (offsets / sigma) ** 2).exp()
    lines = tensor.movedim(axis, -1)
    padded = functional.pad(lines.flatten(0, -2)[:, None], (reach, reach), mode="replicate")
    smooth = functional.conv1d(padded, (kernel / kernel.sum())[None, None])
    return smooth.reshape(lines.shape).movedim(-1, axis)


def joint_map(maps: Sequence[Tensor], size: tuple[int, ...]) -> Tensor:
    """Signed maps (*S) of several layers as one of the input's `size`, for an order of positions.

    Each is up-sampled linearly and, among others, scaled to its largest absolute value first.
    """
    grown = [upsample(one[None].float(), size)[0] for one in maps]
    if len(grown) == 1:
        return grown[0]
    scaled = [one / one.abs().max().clamp(min=torch.finfo(one.dtype).tiny) for one in grown]
    return torch.stack(scaled).mean(0)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: Pearson's of the ranks, ties at their mean rank. NaN if one of them is flat."""
    ranks = torch.stack([_ranks(a.flatten()), _ranks(b.flatten())])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    unique: tuple[Tensor, Tensor, Tensor] = torch.unique(
        values, sorted=True, return_inverse=True, return_counts=True
    )
    _, place, count = unique
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]


def shuffled_weights(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Every weight of the model with its numbers in random order, by name.

    The model parameter randomisation test (Adebayo et al. 2018, sec. 3): a map that shows what the
    network has learnt must not look the same afterwards. Running statistics stay.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    # weights that are kept as integers, or that a converter has left as constants; no indices
    tensors |= {
        name: one
        for name, one in model.named_buffers()
        if one.ndim > 1 and (one.is_floating_point() or one.dtype == torch.int8)
    }
    shuffled = {}
    for name, one in tensors.items():
        order = torch.randperm(one.numel(), generator=generator).to(one.device)
        shuffled[name] = one.detach().flatten()[order].reshape(one.shape)
    return shuffled
