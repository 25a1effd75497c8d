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


class Tokens(nn.Module):
    """65 tokens beside a 7x7 map: whoever has seen a map of 7x7 could take 64 of them for more."""

    class Tok(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            grid = nn.functional.adaptive_avg_pool2d(x, 8)
            tokens = torch.cat([x.mean((2, 3))[:, :, None], grid.flatten(2)], 2).transpose(1, 2)
            return grid, tokens, nn.functional.adaptive_avg_pool2d(x, 7)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tok, self.head = nn.Conv2d(3, 6, 3, 2, 1), self.Tok(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        grid, tokens, small = self.tok(self.stem(x).relu())
        return self.head(tokens[:, 1:].mean(1) + grid.mean((2, 3)) + small.amax((2, 3)))


def test_what_one_asks_for_does_not_change_how_another_is_read() -> None:
    explainer = Explainer(randomised(Tokens()), torch.zeros(1, 3, 32, 32))
    image = torch.randn(1, 3, 32, 32)

    def shapes(layer: str, labels: str | None = None) -> tuple[int, ...]:
        ((one,),) = explainer.explain(
            image, [[ClassIndex(1)]], feature_layer=layer, feature_format=labels
        )
        return tuple(one.map.shape)

    asked = [("tok:1", None), ("tok:1", "BTC"), ("tok:2", None), ("tok:0", None)]
    first = [shapes(*one) for one in asked]
    assert first == [(8, 8), (8, 8), (7, 7), (8, 8)]
    assert [shapes(*one) for one in reversed(asked)] == first[::-1]


class TwoAnswers(nn.Module):
    """A head that returns its scores twice: channels last and first, or pooled and not."""

    class Head(nn.Module):
        def __init__(self, *, pooled: bool) -> None:
            super().__init__()
            self.conv, self.pooled = nn.Conv2d(6, 4, 1), pooled

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            dense = self.conv(x)
            return (dense.mean((2, 3)) if self.pooled else dense.movedim(1, 3)), 2 * dense

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, 2, 1), self.Head(pooled=pooled)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores, dense = self.head(self.stem(x).relu())
        return {"scores": scores.flatten(1), "seg": dense}


@pytest.mark.parametrize("pooled", [False, True])
def test_the_classes_are_where_the_tensor_at_the_path_has_them(*, pooled: bool) -> None:
    model = randomised(TwoAnswers(pooled=pooled))
    image = torch.randn(1, 3, 32, 32)
    explainer = Explainer(model, image, feature_layer="stem")
    with torch.no_grad():
        first, second = model.head(model.stem(image).relu())
    dims = (0,) if pooled else (0, 1)
    truth = {
        "head": first[0, 2] if pooled else first[0].sum(dims)[2],
        "head:0": first[0, 2] if pooled else first[0].sum(dims)[2],
        "head:1": second[0, 2].sum(),
        "output:seg": second[0, 2].sum(),
    }
    for layer, expected in truth.items():
        ((one,),) = explainer.explain(image, [[ClassIndex(2)]], reduction_layer=layer)
        assert one.score == pytest.approx(float(expected), rel=1e-5), layer
