"""Weights in random order: which are shuffled, maps of other weights, and what is left of a map."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from camserve.engine import ClassIndex, Explainer, Finer, Reduction, Top
from camserve.engine.evaluation import rank_correlation, shuffled_weights
from camserve.vocabulary import METHODS, Method
from tests.engine.curved import curved
from tests.engine.networks import PlainCNN, ResNetLike, randomised
from tests.engine.tensors import random
from tests.engine.truth import difference
from tests.engine.zoo_programs import explainer
from tests.zoo import needs_zoo

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(11))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


class WithTables(PlainCNN):
    """Constants of a converter, and a table of indices that would be out of range if shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", random(12, 12).float())
        self.register_buffer("where", torch.tensor([[0, 1], [0, 11]]))  # rows, columns
        self.register_buffer("table", torch.arange(24.0).reshape(2, 12))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).flatten(2).mean(2) @ self.constant
        rows, columns = self.where
        return self.head(pooled + self.table[rows, columns].sum())


@pytest.mark.parametrize("build", [ResNetLike, WithTables])
def test_shuffled_weights_keep_their_numbers(build: Callable[[], nn.Module]) -> None:
    model = randomised(build())
    before = snapshot(model)
    shuffled = shuffled_weights(model)
    assert set(shuffled) >= {name for name, _ in model.named_parameters()}
    for name, weight in shuffled.items():
        assert "running" not in name
        assert "where" not in name
        assert weight.shape == before[name].shape
        assert torch.equal(weight.flatten().sort().values, before[name].flatten().sort().values)
        if weight.numel() > 8:
            assert not torch.equal(weight, before[name])
    assert ("constant" in shuffled) == hasattr(model, "constant")
    # the very same again, and another with another seed
    again, other = shuffled_weights(model), shuffled_weights(model, seed=1)
    assert all(torch.equal(again[name], weight) for name, weight in shuffled.items())
    assert not any(torch.equal(other[n], w) for n, w in shuffled.items() if w.numel() > 8)
    # all over the tensor, not within a channel
    name = next(name for name, weight in shuffled.items() if weight.ndim == 4)
    moved = [
        not torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        for a, b in zip(shuffled[name], before[name], strict=True)
    ]
    assert all(moved)
    explainer = Explainer(model, IMAGES[:1])
    explainer.explain(IMAGES[:1], [[ClassIndex(1)]], weights=shuffled)
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("method", METHODS)
def test_explain_with_other_weights(method: Method) -> None:
    model, inputs = curved()
    twin = copy.deepcopy(model)
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    targets = [[ClassIndex(1)], [ClassIndex(3)]]
    weights = shuffled_weights(model)
    before = explainer.explain(inputs, targets, method=method)
    found = explainer.explain(inputs, targets, method=method, weights=weights)
    after = explainer.explain(inputs, targets, method=method)
    twin.load_state_dict(weights)
    plain = Explainer(twin, inputs[:1], feature_layer="features")
    expected = plain.explain(inputs, targets, method=method)
    for (one,), (other,), (first,), (last,) in zip(found, expected, before, after, strict=True):
        assert difference(one.map, other.map) <= 1e-6
        assert one.score == pytest.approx(other.score, rel=1e-6)
        assert torch.equal(first.map, last.map)
        assert difference(one.map, first.map) > 1e-2


def test_explain_with_some_other_weights() -> None:
    """For a pooled linear head: the classes in another order are the maps in another order."""
    model = randomised(PlainCNN())
    explainer = Explainer(model, IMAGES[:1])
    order = [3, 0, 4, 1, 2]
    weights = {"head.weight": model.head.weight[order], "head.bias": model.head.bias[order]}
    classes = [[ClassIndex(index) for index in range(5)]]
    (found,) = explainer.explain(IMAGES[:1], classes, weights=weights)
    (plain,) = explainer.explain(IMAGES[:1], classes)
    for index, one in zip(order, found, strict=True):
        assert difference(one.map, plain[index].map) <= 1e-6
        assert one.score == pytest.approx(plain[index].score, rel=1e-6)


class BarDetector(nn.Module):
    """As if trained: one filter for upright bars, one for level ones, and a class for each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 5, 1, 2, bias=False), nn.ReLU())
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            bar = torch.full((5, 5), -0.25)
            bar[:, 2] = 1
            self.features[0].weight[0, 0] = bar
            self.features[0].weight[1, 0] = bar.T
            self.head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def test_a_network_that_knows_something_loses_its_map() -> None:
    picture = torch.zeros(1, 1, 24, 24)
    picture[0, 0, 4:16, 7] = 1  # an upright bar
    picture[0, 0, 19, 8:22] = 1  # a level one
    explainer = Explainer(BarDetector(), picture, feature_layer="features")
    ((right,),) = explainer.explain(picture, [[ClassIndex(0)]])
    assert right.map[4:16, 7].min() > 0.9 * right.map.max() / 2
    assert right.map[19, 10:20].max() < 0
    found = []
    for seed in range(10):
        weights = shuffled_weights(explainer.model, seed)
        ((wrong,),) = explainer.explain(picture, [[ClassIndex(0)]], weights=weights)
        found.append(rank_correlation(right.map, wrong.map))
    assert rank_correlation(right.map, right.map) == pytest.approx(1)
    assert abs(sum(found) / len(found)) < 0.35
    assert min(found) < 0


@needs_zoo
def test_a_trained_network_loses_its_maps() -> None:
    known = explainer("shapes-multilabel", torch.float32)
    generator = torch.Generator().manual_seed(0)
    scenes = functional.interpolate(torch.rand(6, 3, 12, 12, generator=generator), (96, 96))
    targets = [[ClassIndex(index) for index in range(3)]] * 6
    plain = known.explain(scenes, targets)
    found = []
    for seed in range(3):
        other = known.explain(scenes, targets, weights=shuffled_weights(known.model, seed))
        found += [
            rank_correlation(one.map, two.map)
            for row, others in zip(plain, other, strict=True)
            for one, two in zip(row, others, strict=True)
        ]
    assert abs(float(np.mean(found))) < 0.3


def test_what_was_settled_is_the_same_with_other_weights() -> None:
    """Which class is the best, which the best other one, which pixels: of the network itself."""
    network = randomised(PlainCNN()).double()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    explainer = Explainer(network, image, feature_layer="features")
    other = {name: weight.neg() for name, weight in network.named_parameters()}
    targets = [Top(1), Reduction("class_margin", class_index=2)]
    (own,) = explainer.explain(image, [targets])
    (settled,) = explainer.explain(image, [[one.target for one in own]], weights=other)
    with torch.no_grad():
        logits = network(image)[0]
        others = functional_call(network, other, (image,))[0]
    best = int(logits.argmax())
    against = max((float(logits[c]), c) for c in range(5) if c != 2)[1]
    assert (best, against) != (int(others.argmax()), int(others.argmax()))
    assert settled[0].score == pytest.approx(float(others[best]))
    assert settled[1].score == pytest.approx(float(others[2] - others[against]))


def test_the_classes_that_finercam_compares_stay_those_of_the_network() -> None:
    network = randomised(PlainCNN()).double()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    explainer = Explainer(network, image, feature_layer="features")
    other = {name: weight.neg() for name, weight in network.named_parameters()}
    finer = Finer(comparisons=1, strength=0.5)
    options: Any = {"method": "finercam", "finer": finer}
    ((own,),) = explainer.explain(image, [[ClassIndex(2)]], **options)
    ((settled,),) = explainer.explain(image, [[own.target]], method="finercam", weights=other)
    with torch.no_grad():
        logits = network(image)[0]
        others = functional_call(network, other, (image,))[0]
    near = min((abs(float(logits[c] - logits[2])), c) for c in range(5) if c != 2)[1]
    assert settled.score == pytest.approx(float(others[2] - 0.5 * others[near]))
