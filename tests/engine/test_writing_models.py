"""Networks that write to what they were given: their input, or what an inner layer returned."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Reduction
from camserve.errors import NotExplainable
from camserve.vocabulary import METHODS, Method
from tests.engine.networks import PlainCNN, ResNetLike, randomised
from tests.engine.truth import difference

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


class Tail(nn.Module):
    """`fc`, and an activation behind it that may write to what it returned."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 5)
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.body(x).relu().mean((2, 3))))


def test_what_is_written_over_the_reduction_layer_is_not_explained() -> None:
    targets = [[ClassIndex(index) for index in range(5)]]
    found = []
    for inplace in (True, False):
        explainer = Explainer(randomised(Tail(inplace=inplace)), IMAGES[:1], feature_layer="body")
        (row,) = explainer.explain(IMAGES[:1], targets, reduction_layer="fc")
        found.append((row, explainer.output(IMAGES[:1], reduction_layer="fc")))
    (written, output), (plain, truth) = found
    assert truth.min() < 0
    assert torch.equal(output, truth)
    for one, other in zip(written, plain, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-6)
        assert one.diagnostics == other.diagnostics
        assert torch.equal(one.map, other.map)


class Normalising(ResNetLike):
    """Scales its own input, in place or not."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.3).mul_(1.7) if self.inplace else (x - 0.3) * 1.7
        return super().forward(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_writes_to_its_input_does_not_see_it_again(method: Method) -> None:
    images = IMAGES.clone()
    writing, plain = (
        Explainer(randomised(Normalising(inplace=inplace)), IMAGES[:1]) for inplace in (True, False)
    )
    targets: Any = [[ClassIndex(1), ClassIndex(2)]] * 3
    for _ in range(2):
        found = writing.explain(images, targets, method=method)
        truth = plain.explain(images, targets, method=method)
        for one, other in zip(chain(*found), chain(*truth), strict=True):
            assert one.score == pytest.approx(other.score, rel=1e-6)
            assert difference(one.map, other.map) <= 1e-6
    assert torch.equal(images, IMAGES)


def test_references_and_scores_of_a_network_that_writes_to_its_input() -> None:
    explainer = Explainer(randomised(Normalising(inplace=True)), IMAGES[:1])
    images = IMAGES.clone()
    reference = explainer.output(images[:1])[0]
    target = Reduction("similarity", reference=reference)
    ((one,),) = explainer.explain(images[:1], [[target]])
    assert one.score == pytest.approx(1, abs=1e-6)
    score_of = explainer.score_of(images[:1], ClassIndex(1))
    assert torch.equal(score_of(images), score_of(images))
    assert torch.equal(images, IMAGES)


def test_a_network_that_cannot_be_differentiated_says_so() -> None:
    """One part of a chunk is written to: autograd has no views of that kind."""

    class Chunked(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=2)
            first.add_(1)
            return super().forward(torch.cat([first, second], 2))

    model = randomised(Chunked())
    with torch.no_grad():
        model(IMAGES.clone())
    with pytest.raises(NotExplainable, match=r"cannot be differentiated .*view"):
        Explainer(model, IMAGES[:1])
