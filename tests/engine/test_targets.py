"""Every reduction against its formula in plain Python, and the virtual layers against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Reduction, Target, Top
from camserve.engine.reductions import coverage
from camserve.errors import ClassIndexOutOfRange, InvalidRequest
from camserve.expressions import parse
from camserve.vocabulary import REDUCTIONS
from tests.engine.networks import PlainCNN, UNet, randomised
from tests.engine.truth import difference, hand_map

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def softmax(x: list[float]) -> list[float]:
    top = max(x)
    powers = [math.exp(value - top) for value in x]
    return [power / sum(powers) for power in powers]


def best_other(x: list[float], index: int) -> float:
    return max(value for place, value in enumerate(x) if place != index)


def entropy(x: list[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(x))


def log_odds(x: list[float], index: int) -> float:
    p = softmax(x)[index]
    return math.log(p / (1 - p))


REFERENCE = [0.5, -1.0, 2.0, 0.25, -0.75]


def cosine(x: list[float]) -> float:
    product = sum(a * b for a, b in zip(x, REFERENCE, strict=True))
    return product / math.hypot(*x) / math.hypot(*REFERENCE)


# the reduction, its value in plain Python, its gradient by another formula in torch
FORMULAS: list[tuple[Reduction, Callable[[list[float]], float], Callable[[Tensor], Tensor]]] = [
    (Reduction("class_score", class_index=2), lambda x: x[2], lambda x: x[2]),
    (
        Reduction("class_margin", class_index=2),
        lambda x: x[2] - best_other(x, 2),
        lambda x: x[2] - max(x[0], x[1], x[3], x[4]),
    ),
    (
        Reduction("class_margin", class_index=2, against=0),
        lambda x: x[2] - x[0],
        lambda x: x[2] - x[0],
    ),
    (
        Reduction("log_odds", class_index=1),
        lambda x: log_odds(x, 1),
        lambda x: torch.logit(x.softmax(0)[1]),
    ),
    (Reduction("output", index=4), lambda x: x[4], lambda x: x[4]),
    (Reduction("sum"), sum, lambda x: x @ torch.ones_like(x)),
    (Reduction("mean"), lambda x: sum(x) / len(x), lambda x: x @ torch.full_like(x, 0.2)),
    (Reduction("max"), max, max),
    (Reduction("norm"), lambda x: math.hypot(*x), lambda x: (x @ x) ** 0.5),
    (
        Reduction("entropy"),
        entropy,
        lambda x: x.logsumexp(0) - (x.softmax(0) * x).sum(),
    ),
    (
        Reduction("similarity", reference=torch.tensor(REFERENCE)),
        cosine,
        lambda x: (x @ x.new_tensor(REFERENCE)) / ((x @ x) ** 0.5 * math.hypot(*REFERENCE)),
    ),
]


@pytest.mark.parametrize(("reduction", "value", "score"), FORMULAS, ids=range(len(FORMULAS)))
def test_reduction_is_its_formula(
    reduction: Reduction,
    value: Callable[[list[float]], float],
    score: Callable[[Tensor], Tensor],
) -> None:
    model = randomised(PlainCNN())
    with torch.no_grad():
        logits = model.double()(IMAGE.double())[0].tolist()
    model.float()
    [[attribution]] = Explainer(model, IMAGE).explain(IMAGE, [[reduction]])
    assert attribution.score == pytest.approx(value(logits), rel=1e-5)
    assert attribution.class_index == reduction.class_index
    truth = hand_map(model, "features", IMAGE, score)
    assert difference(attribution.map, truth) <= 1e-5


def test_every_reduction_has_a_formula() -> None:
    of_dense = {target.name for target, _ in DENSE if isinstance(target, Reduction)}
    assert {reduction.name for reduction, _, _ in FORMULAS} | of_dense == set(REDUCTIONS)


BOX = torch.zeros(32, 32, dtype=torch.bool)
BOX[4:12, 8:24] = True

DENSE: list[tuple[Target, Callable[[Tensor], Tensor]]] = [
    (ClassIndex(1), lambda x: x[1].sum()),
    (Reduction("class_score", class_index=1), lambda x: x[1].sum()),
    (Reduction("class_margin", class_index=1, against=3), lambda x: x[1].sum() - x[3].sum()),
    (Reduction("output", index=2), lambda x: x[2].sum()),
    (Reduction("log_odds", class_index=0), lambda x: torch.logit(x.softmax(0)[0]).sum()),
    (
        Reduction("entropy"),
        lambda x: -(x.softmax(0) * x.log_softmax(0)).sum(),
    ),
    (Reduction("segmentation", class_index=2, region="all"), lambda x: x[2].sum()),
    (
        Reduction("segmentation", class_index=2),
        lambda x: x[2][x.argmax(0) == 2].sum(),
    ),
    (
        Reduction("segmentation", class_index=1, region=BOX),
        lambda x: x[1, 4:12, 8:24].sum(),
    ),
    (parse("sum(x[1, 4:12, 8:24])"), lambda x: x[1, 4:12, 8:24].sum()),
]


@pytest.mark.parametrize(("target", "score"), DENSE, ids=range(len(DENSE)))
def test_dense_outputs_are_summed_over_space(
    target: Target, score: Callable[[Tensor], Tensor]
) -> None:
    model = randomised(UNet())
    [[attribution]] = Explainer(model, IMAGE).explain(IMAGE, [[target]])
    truth = hand_map(model, "bottleneck", IMAGE, score)
    assert attribution.map.shape == (8, 8)
    assert difference(attribution.map, truth) <= 1e-5


def test_top_of_a_dense_output_ranks_class_sums() -> None:
    model = randomised(UNet())
    [row] = Explainer(model, IMAGE).explain(IMAGE, [[Top(4)]])
    with torch.no_grad():
        order = model(IMAGE)[0].sum((1, 2)).argsort(descending=True).tolist()
    assert [attribution.class_index for attribution in row] == order


@pytest.mark.parametrize("factor", [1.0, 30.0, 200.0])
@pytest.mark.parametrize("layer", ["softmax", "sigmoid"])
def test_virtual_probabilities_keep_their_gradient(layer: str, factor: float) -> None:
    """In float32 1 - p is lost near p = 1; the truth is float64 throughout, on the same logits."""
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.weight *= factor / 20
        logits = model(IMAGE)
    best = int(logits.argmax())
    sure = float(logits.max() - logits.topk(2).values[0, 1])
    [[attribution]] = Explainer(model, IMAGE).explain(
        IMAGE, [[ClassIndex(best)]], reduction_layer=layer
    )
    # the chain rule at the float32 logits, in float64: what the engine may know at best
    x = logits[0].double().requires_grad_()
    p = (x.softmax(0) if layer == "softmax" else x.sigmoid())[best]
    (slope,) = torch.autograd.grad(p, x)
    truth = hand_map(model, "features", IMAGE, lambda row: row @ slope)
    assert sure > 0
    assert attribution.map.abs().max() > 0
    assert difference(attribution.map, truth) <= 1e-5
    assert attribution.score == pytest.approx(float(p.detach()), rel=1e-12)


def test_saturated_softmax_where_float32_fails() -> None:
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([18.0, 0.0, 1.0, -1.0, 0.5]))
        logits = model(IMAGE)
    assert float(logits.softmax(1)[0, 0]) > 1 - 1e-6
    target = [[ClassIndex(0)]]
    [[virtual]] = Explainer(model, IMAGE).explain(IMAGE, target, reduction_layer="softmax")
    x = logits[0].double().requires_grad_()
    (slope,) = torch.autograd.grad(x.softmax(0)[0], x)
    truth = hand_map(model, "features", IMAGE, lambda row: row @ slope)
    assert difference(virtual.map, truth) <= 1e-5
    behind = nn.Sequential(model, nn.Softmax(1))
    [[in_float32]] = Explainer(behind, IMAGE, feature_layer="0.features").explain(IMAGE, target)
    assert difference(in_float32.map, truth) > 1e-3  # or this test proves nothing


def test_log_odds_and_entropy_read_the_logits_behind_a_virtual_softmax() -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    targets = [[Reduction("log_odds", class_index=1), Reduction("entropy")]]
    [plain] = explainer.explain(IMAGE, targets)
    [virtual] = explainer.explain(IMAGE, targets, reduction_layer="softmax")
    for a, b in zip(virtual, plain, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-5)
        assert difference(a.map, b.map) <= 1e-5


def test_log_odds_and_entropy_of_sigmoids() -> None:
    """Each class by itself: the log-odds are the logit, the entropy a sum over the classes."""
    model = randomised(PlainCNN())
    targets = [[Reduction("log_odds", class_index=1), Reduction("entropy")]]
    [odds, uncertainty] = Explainer(model, IMAGE).explain(
        IMAGE, targets, reduction_layer="sigmoid"
    )[0]

    def bits(row: Tensor) -> Tensor:
        p = row.sigmoid()
        return -(p * p.log() + (1 - p) * (1 - p).log()).sum()

    for found, score in ((odds, lambda row: row[1]), (uncertainty, bits)):
        assert difference(found.map, hand_map(model, "features", IMAGE, score)) <= 1e-5
    with torch.no_grad():
        logits = model(IMAGE)[0]
    assert odds.score == pytest.approx(float(logits[1]), rel=1e-6)
    assert uncertainty.score == pytest.approx(float(bits(logits.double())), rel=1e-6)


def test_a_module_as_reduction_layer() -> None:
    model = randomised(nn.Sequential(PlainCNN(), nn.Tanh(), nn.Linear(5, 2)))
    explainer = Explainer(model, IMAGE, reduction_layer="0.head")
    assert explainer.report.reduction_layer == "0.head"
    [[attribution]] = explainer.explain(IMAGE, [[ClassIndex(4)]])
    truth = hand_map(model[0], "features", IMAGE, lambda row: row[4])
    assert difference(attribution.map, truth) <= 1e-5


def test_an_output_without_class_dimension() -> None:
    class Value(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    model = randomised(Value())
    explainer = Explainer(model, IMAGE)
    assert explainer.report.output_shape == ()
    two = torch.cat([IMAGE, 2 * IMAGE])
    rows = explainer.explain(two, [[Reduction("output")], [ClassIndex(0)]])
    for row, inputs in zip(rows, two.split(1), strict=True):
        plain = randomised(PlainCNN())
        truth = hand_map(plain, "features", inputs, lambda out: out[0])
        assert difference(row[0].map, truth) <= 1e-5


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Reduction("segmentation", class_index=1), "needs a dense output"),
        (Reduction("similarity"), "needs reference"),
        (Reduction("similarity", reference=torch.ones(3)), "3 values, the output 5"),
        (Reduction("nonsense"), "there is no reduction 'nonsense'"),
        (Reduction("class_score"), "needs class_index"),
        (Reduction("log_odds"), "needs class_index"),
        (Reduction("sum", index=1), "does not take index: it takes no parameters"),
        (Reduction("entropy", class_index=1), "does not take class_index"),
        (Reduction("class_score", class_index=1, against=2), "does not take against"),
        (Reduction("class_margin", class_index=1, against=1), "against itself"),
        (Reduction("output"), "give index, 0 to 4"),
        (Reduction("output", index=5), "0 to 4"),
        (Reduction("output", index=-1), "0 to 4"),
        (Top(6), "1 to 5"),
        (Top(0), "at least 1"),
    ],
    ids=str,
)
def test_meaningless_targets(target: Target, message: str) -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    with pytest.raises(InvalidRequest, match=message):
        explainer.explain(IMAGE, [[ClassIndex(0), target]])


@pytest.mark.parametrize(
    "target",
    [
        ClassIndex(5),
        ClassIndex(-1),
        Reduction("class_score", class_index=5),
        Reduction("log_odds", class_index=-1),
        Reduction("class_margin", class_index=0, against=7),
    ],
    ids=str,
)
def test_class_index_out_of_range(target: Target) -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    with pytest.raises(ClassIndexOutOfRange) as caught:
        explainer.explain(IMAGE, [[target]])
    assert caught.value.extensions["minimum"] == 0
    assert caught.value.extensions["maximum"] == 4


def test_regions_on_an_output_of_lower_resolution() -> None:
    """A cell counts if half of it is covered, else the cells that are covered the most."""
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[0:8, 4:12] = True  # the whole of no 8x8 cell but half of two
    assert coverage(region, (4, 4)).nonzero().tolist() == [[0, 0], [0, 1]]
    point = torch.zeros(32, 32, dtype=torch.bool)
    point[17, 30] = True
    assert coverage(point, (4, 4)).nonzero().tolist() == [[2, 3]]
    assert coverage(point, (32, 32)).nonzero().tolist() == [[17, 30]]
    with pytest.raises(InvalidRequest, match="empty"):
        coverage(torch.zeros(32, 32), (4, 4))
    with pytest.raises(InvalidRequest, match="2 dimensions"):
        coverage(point, (4,))
