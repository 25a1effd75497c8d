"""Nobody is measured, or slandered, whose maps are not ours."""

from __future__ import annotations

import torch

from benchmarks.rivals.libraries import as_theirs, check

OURS = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]], [[[0.0, 5.0], [-6.0, 7.0]]]])


def test_a_map_may_be_scaled_and_without_what_is_negative() -> None:
    theirs = as_theirs(OURS, (8, 8), signed=False)
    assert theirs.min() == 0
    assert check(theirs / theirs.amax(), OURS, signed=False) == ""
    assert check(OURS * 3, OURS, signed=True) == ""


def test_another_map_is_told() -> None:
    assert "Pearson" in check(-OURS, OURS, signed=True)
    assert "Pearson" in check(as_theirs(OURS.flip(0), (8, 8), signed=False), OURS, signed=False)
    assert "Pearson" in check(torch.zeros(2, 1, 8, 8), OURS, signed=False)
