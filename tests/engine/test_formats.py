"""Inputs and outputs of every order of dimensions, against a hand-written autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Reduction
from camserve.errors import InvalidInput, InvalidRequest
from camserve.expressions import parse
from tests.engine.families import ConvGRU, FramesThenLSTM, TimeFirstLSTM, VideoCNN
from tests.engine.networks import PlainCNN, UNet, randomised
from tests.engine.truth import difference, hand_map

# name, network, layer, inputs, their labels, score of one output row, features to (1, K, *S)
Case = tuple[Callable[[], nn.Module], str, tuple[int, ...], str, Callable[[Tensor], Tensor]]
CASES: dict[str, Case] = {
    "video, channels first": (
        VideoCNN, "layer1", (1, 3, 8, 32, 48), "BCTSS", lambda f: f,
    ),
    "video, frames in the batch": (
        FramesThenLSTM, "cnn", (1, 6, 3, 32, 48), "BTCSS", lambda f: f.movedim(0, 1)[None],
    ),
    "steps before channels": (
        lambda: ConvGRU(mean=True), "gru", (1, 6, 40), "BCT", lambda f: f.transpose(1, 2),
    ),
    "a convolutional front": (ConvGRU, "front", (1, 6, 40), "BCT", lambda f: f),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
def test_maps_of_other_orders(name: str, dtype: torch.dtype, tolerance: float) -> None:
    build, layer, shape, labels, maps = CASES[name]
    model = randomised(build()).to(dtype)
    inputs = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    explainer = Explainer(model, inputs, input_format=labels)
    assert explainer.report.feature_layer == layer

    def first(features: Any) -> Tensor:
        return maps(features[0] if isinstance(features, tuple) else features)

    truth = _hand_map(model, layer, inputs, lambda output: output[0, 2], first)
    two = torch.cat([inputs, 2 * inputs])
    [[one], [other]] = explainer.explain(two, [[ClassIndex(2)], [ClassIndex(1)]])
    assert difference(one.map, truth) <= tolerance
    truth = _hand_map(model, layer, 2 * inputs, lambda output: output[0, 1], first)
    assert difference(other.map, truth) <= tolerance


def _hand_map(
    model: nn.Module,
    layer: str,
    inputs: Tensor,
    score: Callable[[Tensor], Tensor],
    maps: Callable[[Any], Tensor],
) -> Tensor:
    """As `hand_map`, for layers that return tuples and outputs of any order."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        leaf = tensor.detach().requires_grad_()
        kept.append(leaf)
        return (leaf * 1, *output[1:]) if isinstance(output, tuple) else leaf * 1

    handle = model.get_submodule(layer).register_forward_hook(keep)
    output = model(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(score(output), kept[0])
    features, slopes = maps(kept[0].detach())[0], maps(gradient)[0]
    return sum(s.mean() * f for s, f in zip(slopes, features, strict=True))  # type: ignore[return-value]


def test_time_before_the_batch_and_a_label_for_each_step() -> None:
    """(T, B, C) in and out: a class of a step, of some steps, and of all."""
    model = randomised(TimeFirstLSTM())
    inputs = torch.randn(30, 2, 6, generator=torch.Generator().manual_seed(3))
    explainer = Explainer(model, inputs[:, :1], input_format="TBC")
    assert explainer.report.output_format == "TBC"
    assert (explainer.report.classes, explainer.batch_dimension) == (4, 1)
    some = torch.zeros(30, dtype=torch.bool)
    some[10:14] = True
    targets = [ClassIndex(3), parse("x[1, 7]"), Reduction("segmentation", 2, region=some)]
    scores: list[Callable[[Tensor], Tensor]] = [
        lambda output: output[:, 0, 3].sum(),
        lambda output: output[7, 0, 1],
        lambda output: output[10:14, 0, 2].sum(),
    ]
    rows = explainer.explain(inputs, [targets, []])
    assert rows[1] == []
    for attribution, score in zip(rows[0], scores, strict=True):
        truth = _hand_map(model, "lstm", inputs[:, :1], score, lambda f: f.permute(1, 2, 0))
        assert difference(attribution.map, truth) <= 1e-5


def test_sequences_of_another_length_than_the_probe() -> None:
    model = randomised(ConvGRU(mean=True))
    explainer = Explainer(model, torch.zeros(1, 6, 40), input_format="BCT")
    for steps in (12, 61, 400):
        inputs = torch.randn(1, 6, steps)
        [[attribution]] = explainer.explain(inputs, [[ClassIndex(0)]])
        truth = _hand_map(
            model, "gru", inputs, lambda output: output[0, 0], lambda f: f.transpose(1, 2)
        )
        assert difference(attribution.map, truth) <= 1e-5


def test_an_output_whose_classes_come_last() -> None:
    """(B, H, W, C), as networks from TensorFlow have them: seen, or said."""

    class Last(UNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).permute(0, 2, 3, 1)

    inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = randomised(UNet())
    truth = hand_map(plain, "bottleneck", inputs, lambda row: row[2].sum())
    seen = Explainer(randomised(Last()), inputs)
    assert (seen.report.output_format, seen.report.classes) == ("BSSC", 4)
    said = Explainer(randomised(Last()), inputs, output_format="BSSC")
    for explainer in (seen, said):
        [[attribution]] = explainer.explain(inputs, [[ClassIndex(2)]], feature_layer="bottleneck")
        assert difference(attribution.map, truth) <= 1e-5
    with pytest.raises(InvalidRequest, match="output of 4 dimensions"):
        Explainer(randomised(Last()), inputs, output_format="BTC")


@pytest.mark.parametrize(
    ("shape", "labels", "error"),
    [
        ((1, 3), None, InvalidInput),
        ((1, 3, 8, 8, 8, 8), None, InvalidInput),
        ((2, 3, 32, 32), None, InvalidInput),
        ((1, 3, 32, 32), "CSS", InvalidRequest),
        ((1, 3, 32, 32), "BCT", InvalidInput),
        ((1, 3, 32, 32), "BCUU", InvalidRequest),
        ((1, 3, 32, 32), "BCHW", InvalidRequest),
    ],
)
def test_probes_and_formats_without_meaning(
    shape: tuple[int, ...], labels: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Explainer(randomised(PlainCNN()), torch.zeros(shape), input_format=labels)
