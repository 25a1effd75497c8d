"""Several layers in one call have the maps that each has alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import ClassIndex, Explainer
from camserve.vocabulary import METHODS, Method
from tests.engine.curved import curved
from tests.engine.networks import randomised
from tests.engine.truth import difference


class Branches(nn.Module):
    """Two layers beside each other, and one behind the other inside a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.left = nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(11, 7, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(7, 8, 3, 1, 1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = functional.relu(self.stem(x))
        both = torch.cat([self.left(stem), self.right(stem)], 1)
        return self.head(functional.relu(self.body(both)).square().mean((2, 3)))


SEVERAL = {
    "one behind the other": ("stem", "left", "body"),
    "late first": ("body", "right", "stem"),
    "beside each other": ("left", "right"),
    "inside another": ("body", "body.0", "body.1"),
    "inside another, late first": ("body.1", "body.2", "body"),
    "the same twice": ("left", "left"),
    "the same twice, in place": ("body.0", "body.1", "body.1"),
}


@pytest.mark.parametrize("layers", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("method", METHODS)
def test_several_layers_at_once_have_the_maps_that_each_has_alone(
    layers: tuple[str, ...], method: Method
) -> None:
    inputs = curved()[1]
    explainer = Explainer(randomised(Branches()).double(), inputs[:1])
    targets = [[ClassIndex(1)], [ClassIndex(3), ClassIndex(0)]]
    together = explainer.explain(inputs, targets, method=method, feature_layer=layers)
    for place, layer in enumerate(layers):
        alone = explainer.explain(inputs, targets, method=method, feature_layer=layer)
        for got, expected in zip(together, alone, strict=True):
            for one, other in zip(got, expected, strict=True):
                assert len(one.maps) == len(layers)
                gap = (one.maps[place] - other.map).abs().max()
                assert gap <= 1e-12 * other.map.abs().max()  # a guided map may be all 0


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_several_layers_of_which_one_returns_a_tuple(method: Method) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.conv(x)
            return y.mean((2, 3)), y.tanh(), y.sigmoid()

    class Network(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.left = Pair()
            self.body[0] = nn.Conv2d(12, 7, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            pooled, first, second = self.left(functional.relu(self.stem(x)))
            features = self.body(torch.cat([first, second], 1))
            return self.head(features.relu().square().mean((2, 3))) + pooled.mean(1, keepdim=True)

    inputs = curved()[1][:1]
    explainer = Explainer(randomised(Network()).double(), inputs)
    layers = ["body.0", "left:2", "left", "left:1"]
    targets = [[ClassIndex(1)]]
    ((one,),) = explainer.explain(inputs, targets, method=method, feature_layer=layers)
    for place, layer in enumerate(layers):
        ((alone,),) = explainer.explain(inputs, targets, method=method, feature_layer=layer)
        assert difference(one.maps[place], alone.map) <= 1e-12
    assert difference(one.maps[3], one.maps[2]) <= 1e-12  # the first tensor with space
    assert difference(one.maps[1], one.maps[2]) > 0.01


def test_layers_beside_each_other_by_hand() -> None:
    inputs = curved()[1][:1].double()
    model = randomised(Branches()).double()
    stem = functional.relu(model.stem(inputs)).detach()
    left, right = (branch(stem).detach().requires_grad_() for branch in (model.left, model.right))
    out = model.head(functional.relu(model.body(torch.cat([left, right], 1))).square().mean((2, 3)))
    slopes = torch.autograd.grad(out[0, 1], [left, right])
    ((one,),) = Explainer(model, inputs).explain(
        inputs, [[ClassIndex(1)]], feature_layer=["left", "right"]
    )
    for found, features, slope in zip(one.maps, (left, right), slopes, strict=True):
        expected = (slope.mean((2, 3), keepdim=True) * features).sum(1)[0].detach()
        assert difference(found, expected) <= 1e-12
