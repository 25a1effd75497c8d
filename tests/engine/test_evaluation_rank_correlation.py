"""Spearman's rank correlation of two maps, against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from camserve.engine.evaluation import rank_correlation
from tests.engine.formulas import Array
from tests.engine.tensors import random


def spearman(a: Array, b: Array) -> float:
    """By counting: of each value how many are less, and half of those that are equal."""
    ranks = [
        np.array([sum(v < one for v in x) + (sum(v == one for v in x) + 1) / 2 for one in x])
        for x in (a.ravel(), b.ravel())
    ]
    first, second = (rank - rank.mean() for rank in ranks)
    return float((first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum()))


@pytest.mark.parametrize("coarseness", [0, 1, 3])
@pytest.mark.parametrize("shape", [(30,), (6, 5), (3, 4, 2)])
def test_rank_correlation_with_and_without_ties(shape: tuple[int, ...], coarseness: int) -> None:
    a, b = random(*shape), random(*shape, seed=1)
    b = b + a  # related
    if coarseness:
        a, b = (one.mul(2).div(coarseness).round() for one in (a, b))
        assert len(a.unique()) < a.numel()
    assert rank_correlation(a, b) == pytest.approx(spearman(a.numpy(), b.numpy()), rel=1e-12)
    assert rank_correlation(b, a) == pytest.approx(rank_correlation(a, b), rel=1e-12)


def test_rank_correlation_knows_the_order_alone() -> None:
    a = random(40)
    assert rank_correlation(a, a.exp()) == pytest.approx(1, rel=1e-12)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1, rel=1e-12)
    assert math.isnan(rank_correlation(a, torch.ones(40)))
    # 1 - 6 sum d^2 / (n (n^2 - 1)), the textbook's form without ties: d = 1, 1, 0, 0
    four = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(four, four[[1, 0, 2, 3]]) == pytest.approx(1 - 6 * 2 / 60)
