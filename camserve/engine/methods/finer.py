"""Finer-CAM: what tells a class from the classes that resemble it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from camserve.errors import InvalidRequest

__all__ = ["Finer", "finer_score", "most_similar_classes"]


@dataclass(frozen=True)
class Finer:
    """comparisons: with how many similar classes; strength: weight of their scores."""

    comparisons: int = 3
    strength: float = 1.0


def finer_score(
    x: Tensor, class_index: int, others: Sequence[int], strength: float = 1.0
) -> Tensor:
    """Mean over the other classes d of y_c - strength y_d (Zhang et al. 2025, eq. 4-6).

    x: (C, *D), y its sums over D. Grad-CAM is linear in the gradient, so that the map of this mean
    is the mean of the maps of the differences, which the paper takes.
    """
    y = x.flatten(1).sum(1) if x.ndim > 1 else x
    return y[class_index] - strength * y[list(others)].mean()


def most_similar_classes(totals: Tensor, class_index: int, count: int) -> list[int]:
    """The classes whose scores in (C,) are the nearest to that of `class_index`, nearest first.

    Raises InvalidRequest if there is no other class.
    """
    if len(totals) < 2:
        raise InvalidRequest("finercam needs another class: the model has one output")
    distances = (totals.detach() - totals[class_index].detach()).abs()
    distances[class_index] = float("inf")
    nearest: list[int] = distances.argsort()[: min(count, len(totals) - 1)].tolist()
    return nearest
