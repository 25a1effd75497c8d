"""How far one map is from another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """relative_error: max |a - b| / max |b|. pearson: the least correlation over the maps."""

    relative_error: float
    pearson: float


def agreement(maps: Tensor, truth: Tensor) -> Agreement:
    """Of (N, *S) maps with (N, *S) others; the worst of the N."""
    ours, theirs = maps.double().flatten(1), truth.double().flatten(1)
    error = (ours - theirs).abs().amax(1) / theirs.abs().amax(1)
    ours, theirs = (one - one.mean(1, keepdim=True) for one in (ours, theirs))
    correlation = nn.functional.cosine_similarity(ours, theirs, dim=1)
    return Agreement(float(error.max()), float(correlation.min()))
