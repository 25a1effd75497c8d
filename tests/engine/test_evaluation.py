"""Deletion, insertion and randomisation against plain loops, and on networks whose evidence is
known."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import Budget, ClassIndex, Explainer, Reduction, Top
from camserve.engine.evaluation import (
    Curve,
    baseline_of,
    deletion,
    insertion,
    joint_map,
    rank_correlation,
    shuffled_weights,
)
from camserve.errors import InvalidRequest
from camserve.expressions import parse
from camserve.vocabulary import BASELINES, METHODS, Baseline, Method
from tests.engine.networks import PlainCNN, ResNetLike, UNet, randomised
from tests.engine.test_methods import curved, grown
from tests.engine.test_zoo import explainer
from tests.engine.truth import difference
from tests.zoo import needs_zoo

Array = NDArray[np.float64]
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(11))
SHAPES = {1: (2, 9), 2: (2, 6, 5), 3: (2, 4, 3, 5)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


# Baselines


def blurred(image: Array) -> Array:
    """One kernel of all dimensions at once, one position at a time."""
    sigmas = [max(0.05 * side, 0.5) for side in image.shape[1:]]
    reaches = [max(1, round(3 * sigma)) for sigma in sigmas]
    offsets = list(itertools.product(*[range(-reach, reach + 1) for reach in reaches]))
    kernel = np.array(
        [
            math.exp(-sum(o * o / (2 * s * s) for o, s in zip(at, sigmas, strict=True)))
            for at in offsets
        ]
    )
    kernel /= kernel.sum()
    result = np.zeros_like(image)
    for channel, *position in np.ndindex(image.shape):
        for weight, offset in zip(kernel, offsets, strict=True):
            near = [
                min(max(p + o, 0), side - 1)
                for p, o, side in zip(position, offset, image.shape[1:], strict=True)
            ]
            result[(channel, *position)] += weight * image[(channel, *near)]
    return result


@pytest.mark.parametrize("shape", [*SHAPES.values(), (1, 40), (1, 24, 3), (1, 1, 1)])
def test_blur_is_a_convolution_with_a_gaussian(shape: tuple[int, ...]) -> None:
    image = random(*shape)
    found = baseline_of(image, "blur")
    assert difference(found, torch.from_numpy(blurred(image.numpy()))) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES.values())
def test_mean_and_zero(shape: tuple[int, ...]) -> None:
    image = random(*shape)
    mean = baseline_of(image, "mean")
    assert mean.shape == image.shape
    for channel, expected in zip(mean.numpy(), image.numpy(), strict=True):
        assert np.ptp(channel) == 0
        assert channel.flat[0] == pytest.approx(sum(expected.flat) / expected.size, rel=1e-12)
    zero = baseline_of(image, "zero")
    assert zero.shape == image.shape
    assert not zero.any()


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


# Rank correlation


def spearman(a: Array, b: Array) -> float:
    """By counting: of each value how many are less, and half of those that are equal."""
    ranks = [
        np.array([sum(v < one for v in x) + (sum(v == one for v in x) + 1) / 2 for one in x])
        for x in (a.ravel(), b.ravel())
    ]
    first, second = (rank - rank.mean() for rank in ranks)
    return float((first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum()))


@pytest.mark.parametrize("coarseness", [0, 1, 3])
@pytest.mark.parametrize("shape", [(30,), (6, 5), (3, 4, 2)])
def test_rank_correlation_with_and_without_ties(shape: tuple[int, ...], coarseness: int) -> None:
    a, b = random(*shape), random(*shape, seed=1)
    b = b + a  # related
    if coarseness:
        a, b = (one.mul(2).div(coarseness).round() for one in (a, b))
        assert len(a.unique()) < a.numel()
    assert rank_correlation(a, b) == pytest.approx(spearman(a.numpy(), b.numpy()), rel=1e-12)
    assert rank_correlation(b, a) == pytest.approx(rank_correlation(a, b), rel=1e-12)


def test_rank_correlation_knows_the_order_alone() -> None:
    a = random(40)
    assert rank_correlation(a, a.exp()) == pytest.approx(1, rel=1e-12)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1, rel=1e-12)
    assert math.isnan(rank_correlation(a, torch.ones(40)))
    # 1 - 6 sum d^2 / (n (n^2 - 1)), the textbook's form without ties: d = 1, 1, 0, 0
    four = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(four, four[[1, 0, 2, 3]]) == pytest.approx(1 - 6 * 2 / 60)


# Shuffled weights


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


# The score of an input that changes


def test_score_of_settles_on_the_original_input() -> None:
    """What Top, the best other class and the predicted region mean is decided once."""
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    changed = torch.cat([IMAGES[1:], -IMAGES, 3 * IMAGES])
    with torch.no_grad():
        logits, others = model(IMAGES[:1])[0], model(changed)
    best, second = logits.topk(2).indices.tolist()
    assert set(others.argmax(1).tolist()) != {best}
    settled: list[tuple[Any, Tensor]] = [
        (Top(1), others[:, best]),
        (ClassIndex(3), others[:, 3]),
        (Reduction("class_margin", class_index=best), others[:, best] - others[:, second]),
        (Reduction("norm"), others.norm(dim=1)),
        (parse("x[2] - x[0]"), others[:, 2] - others[:, 0]),
    ]
    for target, expected in settled:
        score_of = explainer.score_of(IMAGES[:1], target)
        found = score_of(changed)
        assert found.shape == (len(changed),)
        assert not found.requires_grad
        assert difference(found, expected) <= 1e-5
    probabilities = explainer.score_of(IMAGES[:1], Top(1), reduction_layer="softmax")
    assert difference(probabilities(changed), others.double().softmax(1)[:, best]) <= 1e-5
    margin = Reduction("class_margin", class_index=best)
    assert (
        difference(  # of probabilities too, the second best by the original input's
            explainer.score_of(IMAGES[:1], margin, reduction_layer="softmax")(changed),
            others.double().softmax(1)[:, best] - others.double().softmax(1)[:, second],
        )
        <= 1e-5
    )


def test_score_of_keeps_the_predicted_region() -> None:
    model = randomised(UNet())
    explainer = Explainer(model, IMAGES[:1])
    with torch.no_grad():
        original, changed = model(IMAGES[:1])[0], model(IMAGES)
    index = int(original.argmax(0).flatten().mode().values)
    predicted = original.argmax(0) == index
    assert not torch.equal(changed[1].argmax(0) == index, predicted)
    score_of = explainer.score_of(IMAGES[:1], Reduction("segmentation", class_index=index))
    expected = torch.stack([row[index][predicted].sum() for row in changed])
    assert difference(score_of(IMAGES), expected) <= 1e-5


def test_score_of_takes_channels_first_and_counts() -> None:
    class ChannelsLast(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 3, 1, 2))

    model = randomised(ChannelsLast())
    turned = IMAGES.permute(0, 2, 3, 1)
    explainer = Explainer(model, turned[:1], input_format="BSSC")
    budget = Budget()
    score_of = explainer.score_of(turned[:1], ClassIndex(1), budget=budget)
    with torch.no_grad():
        expected = model(turned)[:, 1]
    assert difference(score_of(IMAGES), expected) <= 1e-6
    assert difference(score_of(IMAGES[:2]), expected[:2]) <= 1e-6
    assert budget.spent == 5


def test_score_of_a_model_of_one_input_and_of_one_that_mixes_its_rows() -> None:
    """Such a model gets one variant at a time."""

    class OneByOne(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(1, *x.shape[1:]))

    class Mixing(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits - logits.mean(0) if len(x) > 1 else logits

    for kind in (OneByOne, Mixing):
        model = randomised(kind())
        score_of = Explainer(model, IMAGES[:1]).score_of(IMAGES[:1], ClassIndex(1))
        with torch.no_grad():
            expected = torch.cat([model(image[None])[:, 1] for image in IMAGES])
        assert difference(score_of(IMAGES), expected) <= 1e-6


def test_score_of_in_half_precision_has_a_float32_head() -> None:
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    seen: list[torch.dtype] = []
    model.fc.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    score_of = explainer.score_of(IMAGES[:1], ClassIndex(1), precision="bfloat16")
    assert score_of(IMAGES).dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_score_of_needs_one_score() -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGES[:1])
    with pytest.raises(InvalidRequest, match="has 2 scores: one is needed"):
        explainer.score_of(IMAGES[:1], Top(2))


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
