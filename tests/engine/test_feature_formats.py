"""A format that the caller names for the features, and tokens that are ambiguous without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from camserve.errors import InvalidRequest, NotExplainable
from tests.engine.networks import ClassTokenViT, randomised
from tests.engine.truth import difference, hand_map


def test_features_of_a_named_format() -> None:
    inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = randomised(ClassTokenViT(prefix=1))
    explainer = Explainer(model, inputs)
    truth = hand_map(
        model,
        "blocks.1",
        inputs,
        lambda row: row[0],
        maps=lambda f: f[:, 1:].transpose(1, 2).reshape(1, -1, 4, 4),
    )
    # 17 tokens: 16 behind one; or, if somebody says so, 3 x 4 behind five
    for labels in (None, "BTC", "BTC:4x4", "TC:4x4"):
        [[attribution]] = explainer.explain(
            inputs, [[ClassIndex(0)]], feature_layer="blocks.1", feature_format=labels
        )
        assert difference(attribution.map, truth) <= 1e-5
    truth = hand_map(
        model,
        "blocks.1",
        inputs,
        lambda row: row[0],
        maps=lambda f: f[:, 5:].transpose(1, 2).reshape(1, -1, 3, 4),
    )
    [[attribution]] = explainer.explain(
        inputs, [[ClassIndex(0)]], feature_layer="blocks.1", feature_format="BTC:3x4"
    )
    assert difference(attribution.map, truth) <= 1e-5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("BCSS", "4 dimensions|3 dimensions"),
        ("TBC", "dimension of size 1 is B"),
        ("BTC:5x5", "17 tokens are no grid"),
        ("BTC:4x4x1", "17 tokens are no grid of 2"),
        ("BCU", "needs a dimension S or T"),
        ("BXC", "not made of the letters"),
        ("BTT", "T more than once"),
    ],
)
def test_named_formats_that_do_not_fit(labels: str, message: str) -> None:
    inputs = torch.zeros(1, 3, 32, 32)
    explainer = Explainer(randomised(ClassTokenViT()), inputs)
    with pytest.raises(InvalidRequest, match=message) as caught:
        explainer.explain(
            inputs, [[ClassIndex(0)]], feature_layer="blocks.1", feature_format=labels
        )
    assert caught.value.extensions["field"] == "feature_format"


def test_ambiguous_tokens_name_the_choices() -> None:
    """A pyramid that has shown 4x4 and 3x3 before 20 tokens: either may be meant."""

    class Ambiguous(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coarse = nn.Conv2d(3, 6, 8, 8)
            self.other = nn.Conv2d(3, 6, 11, 10)
            self.tokens = nn.Linear(6, 6)
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            extra = self.other(x).flatten(2)[..., :4]
            both = torch.cat([extra, self.coarse(x).flatten(2)], 2)
            return self.head(self.tokens(both.transpose(1, 2)).square().mean(1))

    inputs = torch.randn(1, 3, 32, 32)
    explainer = Explainer(randomised(Ambiguous()), inputs)
    ask: dict[str, Any] = {"feature_layer": "tokens"}
    with pytest.raises(NotExplainable, match=r"ambiguous: 4 prefix tokens and a 4x4 grid or 11"):
        explainer.explain(inputs, [[ClassIndex(0)]], **ask)
    with pytest.raises(InvalidRequest, match="BTC:4x4 or BTC:3x3"):
        explainer.explain(inputs, [[ClassIndex(0)]], feature_format="BTC", **ask)
    [[chosen]] = explainer.explain(inputs, [[ClassIndex(0)]], feature_format="BTC:4x4", **ask)
    assert chosen.map.shape == (4, 4)


@pytest.mark.parametrize("labels", ["BTC:abc", "BTC:0x0", "BTC:-7x-28", "BTC:8x8x", "BTC:"])
def test_a_grid_that_is_none(labels: str) -> None:
    explainer = Explainer(randomised(ClassTokenViT()), torch.zeros(1, 3, 32, 32))
    with pytest.raises(InvalidRequest, match="written as in BTC:14x14"):
        explainer.explain(
            torch.zeros(1, 3, 32, 32),
            [[ClassIndex(1)]],
            feature_layer=explainer.report.feature_layer,
            feature_format=labels,
        )
