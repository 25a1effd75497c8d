"""Eigen-CAM and Eigen-Grad-CAM: the sign of the map, and few positions or many."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camserve.engine import ClassIndex, Explainer
from camserve.vocabulary import Method
from tests.engine.curved import curved
from tests.engine.formulas import truth
from tests.engine.truth import difference


@pytest.mark.parametrize("flipped", [False, True])
def test_eigencam_rises_with_the_sum_of_the_channels(flipped: bool) -> None:
    """Channels that fall along the only direction: a bare SVD would give either sign."""
    ramp = torch.arange(6, dtype=torch.float64).reshape(1, 1, 6)
    model = nn.Sequential(nn.Conv1d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(18, 2)).double()
    weights = torch.tensor([-2.0, 5.0, 1.0] if flipped else [2.0, -5.0, 1.0]).double()
    with torch.no_grad():
        model[0].weight.copy_(weights.reshape(3, 1, 1))
    ((one,),) = Explainer(model, ramp).explain(
        ramp, [[ClassIndex(0)]], method="eigencam", feature_layer="0"
    )
    # all channels are multiples of one ramp: the projection is its length along it
    expected = weights.norm() * (ramp[0, 0] - ramp.mean()) * weights.sum().sign()
    assert difference(one.map, expected) <= 1e-12


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
@pytest.mark.parametrize("length", [3, 4, 9, 11, 12, 13])
def test_eigen_maps_of_more_channels_than_positions_and_of_fewer(
    method: Method, length: int
) -> None:
    """Of (length + 1) / 2 positions: 2 to 7, and 6 channels."""
    model, _ = curved(1)
    inputs = torch.randn(1, 3, length, generator=torch.Generator().manual_seed(length))
    ((one,),) = Explainer(model.double(), inputs, feature_layer="features").explain(
        inputs, [[ClassIndex(1)]], method=method
    )
    assert one.map.shape == ((length + 1) // 2,)
    assert difference(one.map, truth(method, model, inputs, 1)) <= 1e-12
