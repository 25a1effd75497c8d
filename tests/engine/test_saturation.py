"""Whether a score is a probability is known once, and does not depend on what is explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import Attribution, ClassIndex, Diagnostic, Explainer
from tests.engine.networks import PlainCNN, randomised

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def sure(last: nn.Module, classes: int = 5) -> nn.Module:
    """Its logit of the last class is 40, whatever the input."""
    model = randomised(PlainCNN(classes=classes))
    with torch.no_grad():
        model.head.bias[-1] = 40
    return nn.Sequential(model, last)


def explained(model: nn.Module, inputs: Tensor = IMAGE, **options: Any) -> list[Attribution]:
    explainer = Explainer(model, IMAGE, feature_layer="0.features", **options)
    last = explainer.report.classes or 1
    return [row[0] for row in explainer.explain(inputs, [[ClassIndex(last - 1)]] * len(inputs))]


@pytest.mark.parametrize("said", [None, "logits", "probabilities"])
def test_of_a_sigmoid_the_card_must_say_it(said: Any) -> None:
    (one,) = explained(sure(nn.Sigmoid()), output_scores=said)
    assert one.score == pytest.approx(1, abs=1e-6)
    assert (Diagnostic.SATURATED in one.diagnostics) == (said == "probabilities")


def test_a_value_of_one_is_no_probability() -> None:
    (one,) = explained(sure(nn.Hardtanh(0, 1), classes=1))
    assert one.score == 1
    assert Diagnostic.SATURATED not in one.diagnostics


def test_a_broken_neighbour_hides_nothing() -> None:
    broken = torch.cat([IMAGE, torch.full_like(IMAGE, torch.nan)])
    first, second = explained(sure(nn.Softmax(1)), broken)
    assert Diagnostic.SATURATED in first.diagnostics
    assert second.diagnostics == (Diagnostic.NONFINITE,)
