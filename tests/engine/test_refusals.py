"""What cannot be explained says so, and says what to do; and each diagnostic, provoked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Diagnostic, Explainer
from camserve.errors import (
    InvalidInput,
    InvalidRequest,
    LayerNotFound,
    NotExplainable,
    ShapeMismatch,
)
from camserve.vocabulary import Precision
from tests.engine.networks import ClassTokenViT, PlainCNN, ResNetLike, randomised
from tests.engine.truth import difference

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))


class WithIdle(PlainCNN):
    """`idle` never runs; `blind` runs, but its output is cut off from the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Conv2d(3, 3, 1)
        self.blind = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0 * self.blind(x).detach().sum())


def test_unknown_layers_name_the_candidates() -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGE)
    with pytest.raises(LayerNotFound) as caught:
        explainer.explain(IMAGE, [[ClassIndex(0)]], feature_layer="layer3")
    assert caught.value.extensions["candidates"] == explainer.report.candidates()
    assert caught.value.extensions["candidates"][0] == "layer2"
    with pytest.raises(LayerNotFound) as caught:
        explainer.explain(IMAGE, [[ClassIndex(0)]], reduction_layer="soft_max")
    assert "softmax" in str(caught.value)
    for wrong in ({"feature_layer": "layer3"}, {"reduction_layer": "layer3"}):
        with pytest.raises(LayerNotFound):
            Explainer(randomised(ResNetLike()), IMAGE, **wrong)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("idle", "never ran"),
        ("blind", "does not depend on the feature layer"),
        ("head", "neither space nor time"),
    ],
)
def test_unexplainable_feature_layers(layer: str, message: str) -> None:
    explainer = Explainer(randomised(WithIdle()), IMAGE)
    with pytest.raises(NotExplainable, match=message):
        explainer.explain(IMAGE, [[ClassIndex(0)]], feature_layer=layer)


def test_unexplainable_reduction_layers() -> None:
    explainer = Explainer(randomised(WithIdle()), IMAGE)
    with pytest.raises(NotExplainable, match="never ran"):
        explainer.explain(IMAGE, [[ClassIndex(0)]], reduction_layer="idle")
    with pytest.raises(NotExplainable, match="before the reduction layer"):
        explainer.explain(IMAGE, [[ClassIndex(0)]], reduction_layer="features.0")


def test_attention_weights_are_refused() -> None:
    explainer = Explainer(randomised(ClassTokenViT()), IMAGE)
    with pytest.raises(NotExplainable, match="attention between tokens"):
        explainer.explain(IMAGE, [[ClassIndex(0)]], feature_layer="blocks.1.attn.attn_drop")


def test_a_model_without_maps_is_reported_and_refused() -> None:
    explainer = Explainer(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), IMAGE)
    assert explainer.report.feature_layer is None
    assert explainer.report.candidates() == []
    with pytest.raises(NotExplainable, match="name a feature layer"):
        explainer.explain(IMAGE, [[ClassIndex(0)]])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_targets_must_match_inputs(count: int) -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    with pytest.raises(ShapeMismatch, match=f"2 inputs .* not {count}"):
        explainer.explain(torch.cat([IMAGE, IMAGE]), [[ClassIndex(0)]] * count)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (0, 3, 32, 32), (1, 3, 32, 32, 1)])
def test_inputs_of_another_kind(shape: tuple[int, ...]) -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    with pytest.raises(InvalidInput, match=r"takes inputs like \(N, 3, 32, 32\)"):
        explainer.explain(torch.zeros(shape), [[ClassIndex(0)]] * shape[0])


def test_inputs_of_a_size_that_the_model_does_not_take() -> None:
    explainer = Explainer(randomised(ClassTokenViT()), IMAGE)
    with pytest.raises(InvalidInput, match="cannot take an input of shape"):
        explainer.explain(torch.zeros(1, 3, 40, 40), [[ClassIndex(0)]])


def test_faults_of_the_model_itself_are_not_disguised() -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    explainer._model.head.weight = nn.Parameter(torch.zeros(5, 99), requires_grad=False)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        explainer.explain(IMAGE, [[ClassIndex(0)]])


def test_probe_must_be_one_input() -> None:
    for shape in [(2, 3, 32, 32), (3, 32)]:
        with pytest.raises(InvalidInput, match="the probe must be one input"):
            Explainer(randomised(PlainCNN()), torch.zeros(shape))


def positive_head(model: PlainCNN, sign: float) -> None:
    model.head.weight.abs_().mul_(sign)


def dead_features(model: PlainCNN) -> None:
    model.features[2].bias.fill_(-1e4)


def loud_inside(model: PlainCNN) -> None:
    """The same function, but 1e6 times as loud between its convolutions: float16 ends at 65504."""
    for weight in model.features[0].parameters():
        weight.mul_(1e6)
    model.features[2].weight.div_(1e6)


DIAGNOSES: dict[str, tuple[Callable[[PlainCNN], None], str, tuple[str, ...]]] = {
    "none": (lambda model: positive_head(model, 1), "output", ()),
    "negative_only": (lambda model: positive_head(model, -1), "output", ("negative_only",)),
    "zero_gradient": (lambda model: model.head.weight.zero_(), "output", ("zero_gradient",)),
    "flat": (dead_features, "output", ("flat",)),
    "nonfinite": (lambda model: model.head.weight.fill_(torch.inf), "output", ("nonfinite",)),
    "saturated": (lambda model: model.head.bias[1].fill_(40), "softmax", ("saturated",)),
    "nonfinite_retried": (loud_inside, "output", ("nonfinite_retried",)),
}


@pytest.mark.parametrize("name", DIAGNOSES)
def test_diagnostics(name: str) -> None:
    damage, reduction_layer, expected = DIAGNOSES[name]
    model = randomised(PlainCNN())
    explainer = Explainer(model, IMAGE, feature_layer="features", reduction_layer=reduction_layer)
    with torch.no_grad():
        positive_head(model, 1)
        damage(model)
    precision: Precision = "float16" if name == "nonfinite_retried" else "float32"
    [[attribution]] = explainer.explain(IMAGE, [[ClassIndex(1)]], precision=precision)
    found = set(attribution.diagnostics) - (
        {Diagnostic.NEGATIVE_ONLY} if name == "saturated" else set()
    )
    assert found == set(expected)
    if name == "nonfinite_retried":  # and it is the map that float32 gives
        [[exact]] = explainer.explain(IMAGE, [[ClassIndex(1)]])
        assert exact.diagnostics == ()
        assert difference(attribution.map, exact.map) <= 1e-6


def test_a_saturated_model_that_ends_in_a_softmax() -> None:
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.bias[1] = 40
    network = nn.Sequential(model, nn.Softmax(1))
    explainer = Explainer(network, IMAGE, feature_layer="0.features")
    [[attribution]] = explainer.explain(IMAGE, [[ClassIndex(1)]], reduction_layer="1")
    assert Diagnostic.SATURATED in attribution.diagnostics
    [[attribution]] = explainer.explain(IMAGE, [[ClassIndex(1)]])
    assert Diagnostic.SATURATED in attribution.diagnostics
    [[attribution]] = explainer.explain(IMAGE, [[ClassIndex(1)]], reduction_layer="0")
    assert Diagnostic.SATURATED not in attribution.diagnostics


def test_a_broken_row_leaves_its_neighbours_alone() -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGE)
    inputs = torch.cat([IMAGE, torch.full_like(IMAGE, torch.nan)])
    [[good], [bad]] = explainer.explain(inputs, [[ClassIndex(0)]] * 2)
    assert bad.diagnostics == (Diagnostic.NONFINITE,)
    assert Diagnostic.NONFINITE not in good.diagnostics
    assert bool(good.map.isfinite().all())


def test_every_diagnostic_has_advice() -> None:
    assert {name for name in DIAGNOSES if name != "none"} == {str(d) for d in Diagnostic}
    for diagnostic in Diagnostic:
        assert diagnostic.advice.endswith(".")
        assert ":" in diagnostic.advice or "," in diagnostic.advice


def test_the_probe_never_shows_a_model_what_memory_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            if not x.isfinite().all():
                raise ValueError("NaN")
            return super().forward(x)

    model = randomised(Picky())
    monkeypatch.setattr(torch, "empty", lambda shape, **_options: torch.full(shape, torch.nan))
    Explainer(model, IMAGE)


@pytest.mark.parametrize("name", ["channels", "chunk"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name: str, value: int) -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGE)
    options: Any = {name: value}
    with pytest.raises(InvalidRequest, match=f"{name}: at least 1, not {value}"):
        explainer.explain(IMAGE, [[ClassIndex(1)]], method="scorecam", **options)
