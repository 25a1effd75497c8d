"""Deletion and insertion against plain loops, and on a network whose evidence is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Top
from camserve.engine.evaluation import Curve, baseline_of, deletion, insertion, joint_map
from camserve.vocabulary import BASELINES, Baseline
from tests.engine.formulas import grown
from tests.engine.networks import ResNetLike, randomised
from tests.engine.tensors import SHAPES, random
from tests.engine.truth import difference

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(11))


def curve_by_hand(
    score: Callable[[Tensor], float], start: Tensor, end: Tensor, cam: Tensor, steps: int
) -> tuple[list[float], float]:
    """Position after position, each with all its channels, in a plain loop."""
    values = cam.numpy()
    order = sorted(np.ndindex(values.shape), key=lambda p: -values[p])  # sorted is stable
    scores = []
    for step in range(steps + 1):
        image = start.clone()
        for position in order[: int(np.rint(len(order) * step / steps))]:
            image[(slice(None), *position)] = end[(slice(None), *position)]
        scores.append(score(image))
    area = sum(scores[i] + scores[i + 1] for i in range(steps)) / 2 / steps
    return scores, area


@pytest.mark.parametrize("dimensions", SHAPES)
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("steps", "chunk"), [(1, 8), (4, 2), (7, 3), (50, 8)])
def test_curves_are_those_of_a_plain_loop(
    dimensions: int, baseline: Baseline, steps: int, chunk: int
) -> None:
    shape = SHAPES[dimensions]
    inputs, weights = random(*shape, seed=1), random(*shape, seed=2)
    cam = random(*shape[1:], seed=3).mul(2).round()  # with ties
    sizes: list[int] = []

    def score_of(variants: Tensor) -> Tensor:
        sizes.append(len(variants))
        return (variants * weights).flatten(1).sum(1).tanh() + variants.flatten(1).amax(1)

    def score(image: Tensor) -> float:
        return float(score_of(image[None]))

    options: Any = {"steps": steps, "baseline": baseline, "chunk": chunk}
    stand_in = baseline_of(inputs, baseline)
    for measure, start, end in ((deletion, inputs, stand_in), (insertion, stand_in, inputs)):
        sizes.clear()
        curve = measure(score_of, inputs, cam, **options)
        assert max(sizes) == min(chunk, steps + 1)
        assert sum(sizes) == steps + 1
        scores, area = curve_by_hand(score, start, end, cam, steps)
        assert curve.scores == pytest.approx(scores, rel=1e-12)
        assert curve.area == pytest.approx(area, rel=1e-12)
        assert len(curve.scores) == steps + 1


def test_a_curve_of_known_heights() -> None:
    """The sum of four positions that are deleted in order 8, 4, 2, 1."""
    inputs = torch.tensor([[1.0, 8.0, 2.0, 4.0]])
    curve = deletion(
        lambda variants: variants.sum((1, 2)), inputs, inputs[0], steps=4, baseline="zero"
    )
    assert curve == Curve((15.0, 7.0, 3.0, 1.0, 0.0), (11 + 5 + 2 + 0.5) / 4)
    curve = insertion(
        lambda variants: variants.sum((1, 2)), inputs, inputs[0], steps=2, baseline="zero"
    )
    assert curve == Curve((0.0, 12.0, 15.0), (6 + 13.5) / 2)


# A network whose evidence is known


EVIDENCE = [(2, 3), (2, 4), (3, 3), (9, 10), (11, 1)]


class Planted(nn.Module):
    """Class 0 adds up the brightness of five pixels, class 1 that of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        self.head = nn.Linear(144, 2, bias=False)
        with torch.no_grad():
            self.features[0].weight.fill_(1)
            self.head.weight.fill_(0)
            for row, column in EVIDENCE:
                self.head.weight[0, 12 * row + column] = 1
            self.head.weight[1] = 1 - self.head.weight[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


@pytest.fixture
def planted() -> tuple[Explainer, Tensor]:
    picture = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(4)) + 0.5
    return Explainer(Planted(), picture, feature_layer="features"), picture


def test_the_right_map_has_the_better_areas(planted: tuple[Explainer, Tensor]) -> None:
    explainer, picture = planted
    ((right,),) = explainer.explain(picture, [[ClassIndex(0)]], method="hirescam")
    score_of = explainer.score_of(picture, ClassIndex(0))
    options: Any = {"steps": 144, "baseline": "zero"}
    random_map = torch.rand(12, 12, generator=torch.Generator().manual_seed(5))
    maps = [right.map, random_map, -right.map]
    removed = [deletion(score_of, picture[0], one, **options) for one in maps]
    restored = [insertion(score_of, picture[0], one, **options) for one in maps]
    assert removed[0].area < removed[1].area < removed[2].area
    assert restored[0].area > restored[1].area > restored[2].area
    # by hand: brightest evidence first, and nothing is left after five of 144 pixels
    values = sorted((float(picture[0, 0, r, c]) for r, c in EVIDENCE), reverse=True)
    left = [sum(values[i:]) for i in range(6)] + [0.0] * 139
    assert removed[0].scores == pytest.approx(left, rel=1e-5, abs=1e-5)
    assert restored[0].scores == pytest.approx([left[0] - one for one in left], rel=1e-5, abs=1e-5)
    # the other way round, all of it is there until the last five
    assert removed[2].scores[139] == pytest.approx(left[0], rel=1e-5)
    assert removed[2].scores[144] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_tells_right_from_wrong(
    planted: tuple[Explainer, Tensor], baseline: Baseline
) -> None:
    explainer, picture = planted
    picture = picture.clone()
    for row, column in EVIDENCE:
        picture[0, 0, row, column] += 5  # stands out, also against a blur and a mean
    ((right,),) = explainer.explain(picture, [[ClassIndex(0)]], method="hirescam")
    score_of = explainer.score_of(picture, ClassIndex(0))
    options: Any = {"steps": 20, "baseline": baseline}
    areas = [
        [measure(score_of, picture[0], one, **options).area for one in (right.map, -right.map)]
        for measure in (deletion, insertion)
    ]
    assert areas[0][0] < 0.7 * areas[0][1]
    assert areas[1][0] > 1.4 * areas[1][1]


# Maps of several layers


def test_joint_map() -> None:
    coarse, fine = random(3, 2), 100 * random(6, 5, seed=1)
    size = (6, 5)
    up = grown(coarse.numpy(), size)
    alone = joint_map([coarse], size)
    assert difference(alone, torch.from_numpy(up)) <= 1e-6
    both = joint_map([coarse, fine], size)
    expected = (up / np.abs(up).max() + fine.numpy() / np.abs(fine.numpy()).max()) / 2
    assert difference(both, torch.from_numpy(expected)) <= 1e-6
    flat = joint_map([torch.zeros(3, 2), fine], size)
    assert difference(flat, fine / fine.abs().max() / 2) <= 1e-6
    for shape in ((7,), (4, 3, 2)):
        one = random(*shape)
        size = tuple(2 * side + 1 for side in shape)
        assert (
            difference(joint_map([one], size), torch.from_numpy(grown(one.numpy(), size))) <= 1e-6
        )


def test_curves_of_a_real_explainer_are_those_of_a_plain_loop() -> None:
    model = randomised(ResNetLike()).double()
    image = IMAGES[:1].double()
    explainer = Explainer(model, image)
    ((one,),) = explainer.explain(image, [[Top(1)]])
    cam = joint_map(one.maps, (32, 32))
    score_of = explainer.score_of(image, Top(1))

    def score(variant: Tensor) -> float:
        with torch.no_grad():
            return float(model(variant[None])[0, one.class_index])

    curve = deletion(score_of, image[0], cam, steps=6, baseline="blur")
    scores, area = curve_by_hand(score, image[0], baseline_of(image[0], "blur"), cam, 6)
    assert curve.scores == pytest.approx(scores, rel=1e-12)
    assert curve.area == pytest.approx(area, rel=1e-12)
    assert curve.scores[0] == pytest.approx(one.score, rel=1e-12)
