"""Finer-CAM against the mean of the differences to the nearest classes, and what it needs."""

from __future__ import annotations

import pytest
import torch

from camserve.engine import ClassIndex, Explainer, Finer, Reduction
from camserve.errors import InvalidRequest
from camserve.expressions import parse
from tests.engine.curved import Curved, curved
from tests.engine.formulas import Known, finercam, gradcam
from tests.engine.networks import randomised
from tests.engine.truth import difference


@pytest.mark.parametrize("comparisons", [1, 2, 4, 99])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_finercam_is_the_mean_of_differences(comparisons: int, strength: float) -> None:
    model, inputs = curved()
    known = Known(model, inputs[:1], 1)
    expected = torch.from_numpy(finercam(known, comparisons, strength))
    explainer = Explainer(model.double(), inputs[:1], feature_layer="features")
    ((one,),) = explainer.explain(
        inputs[:1],
        [[ClassIndex(1)]],
        method="finercam",
        finer=Finer(comparisons=comparisons, strength=strength),
    )
    assert difference(one.map, expected) <= 1e-12
    if strength == 0:
        assert difference(one.map, torch.from_numpy(gradcam(known))) <= 1e-12
        assert one.score == pytest.approx(known.y, rel=1e-12)


def test_finercam_needs_classes() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    for target in (Reduction("norm"), Reduction("class_score", class_index=1), parse("x[1]")):
        with pytest.raises(InvalidRequest, match="it takes class_index, class_label or top"):
            explainer.explain(inputs[:1], [[target]], method="finercam")
    alone = Explainer(randomised(Curved(classes=1)), inputs[:1], feature_layer="features")
    with pytest.raises(InvalidRequest, match="finercam needs another class"):
        alone.explain(inputs[:1], [[ClassIndex(0)]], method="finercam")
