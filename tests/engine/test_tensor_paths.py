"""A layer or an output of several tensors: one is named by its path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from camserve.errors import LayerNotFound
from tests.engine.networks import PlainCNN, randomised
from tests.engine.truth import difference


class Several(PlainCNN):
    """`body` returns a mapping of two maps; the output is a mapping of two scores."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Any]:
            early = self.first(x)
            return {"hidden": [early, self.second(early.relu())], "pooled": early.mean((2, 3))}

    def __init__(self) -> None:
        super().__init__()
        self.body = self.Body()

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        found = self.body(x)
        late = found["hidden"][1].relu().mean((2, 3))
        return {"aux": 2 * self.head(late)[:, :2], "main": self.head(late * late)}


def test_one_of_several_tensors_is_named_by_its_path() -> None:
    model = randomised(Several())
    inputs = torch.randn(1, 3, 32, 32)
    explainer = Explainer(
        model, inputs, feature_layer="body:hidden.1", reduction_layer="output:main"
    )
    assert explainer.report.feature_layers == ("body:hidden.1",)
    with torch.no_grad():
        features = model.body(inputs)["hidden"][1]
    leaf = features.clone().requires_grad_()
    pooled = leaf.relu().mean((2, 3))
    for layer, score in (
        ("output:main", model.head(pooled * pooled)[0, 1]),
        ("output:aux", 2 * model.head(pooled)[0, 1]),
    ):
        (slope,) = torch.autograd.grad(score, leaf, retain_graph=True)
        truth = (slope.mean((2, 3), keepdim=True) * features).sum(1)[0]
        [[attribution]] = explainer.explain(inputs, [[ClassIndex(1)]], reduction_layer=layer)
        assert difference(attribution.map, truth) <= 1e-5
        assert attribution.score == pytest.approx(float(score.detach()), rel=1e-5)
    with pytest.raises(LayerNotFound) as caught:
        explainer.explain(inputs, [[ClassIndex(1)]], feature_layer="body:hidden.2")
    assert caught.value.extensions["candidates"] == [
        "body:hidden.0",
        "body:hidden.1",
        "body:pooled",
    ]
    with pytest.raises(LayerNotFound, match="output:extra"):
        explainer.explain(inputs, [[ClassIndex(1)]], reduction_layer="output:extra")
