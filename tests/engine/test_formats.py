"""Inputs and features of every order of dimensions, against a hand-written autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Reduction
from camserve.errors import InvalidInput, InvalidRequest, LayerNotFound, NotExplainable
from camserve.expressions import parse
from tests.engine.families import FAMILIES, ConvGRU, FramesThenLSTM, TimeFirstLSTM, VideoCNN
from tests.engine.networks import ClassTokenViT, PlainCNN, UNet, randomised
from tests.engine.truth import difference, hand_map
from tests.zoo import ZOO, needs_zoo

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


def test_the_tokens_of_timesformer_hold_all_times_of_a_place() -> None:
    """What changes where one patch of the last frame does is found at that place and time."""
    family = next(family for family in FAMILIES if family.name == "TimeSformer")
    explainer = Explainer(family.build(), torch.zeros(family.shape), input_format=family.format)
    layer = "timesformer.encoder.layer.0"  # behind it (B, 1 + places x times, C)
    tap = explainer._known.tap(layer)
    assert tap.layout.time_last
    assert tap.layout.grid == (8, 8, 8)
    videomae = next(family for family in FAMILIES if family.name == "VideoMAE")
    other = Explainer(videomae.build(), torch.zeros(videomae.shape), input_format="BTCSS")
    assert not other._known.tap("videomae").layout.time_last
    base = torch.randn(family.shape, generator=torch.Generator().manual_seed(0))
    changed = base.clone()
    changed[0, 6, :, 16:24, 40:48] += 5  # frame 6, row 2, column 5 of the patches
    kept: list[Tensor] = []
    handle = tap.module.register_forward_hook(
        lambda _m, _i, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        for inputs in (base, changed):
            explainer.model(inputs)
    handle.remove()
    from camserve.engine.layouts import to_channels_first

    extent = explainer.extent_of(base)
    early, late = (to_channels_first(one, tap.layout, extent)[0] for one in kept)
    place = (late - early).abs().sum(0).flatten().argmax()
    assert [int(i) for i in torch.unravel_index(place, (8, 8, 8))] == [6, 2, 5]


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


def test_strangers_in_a_batch_are_noticed() -> None:
    """A BatchNorm without running statistics makes each row depend on the others."""
    of_the_batch = nn.BatchNorm2d(8, track_running_stats=False)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    mixing = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), of_the_batch, nn.ReLU(), *pooled)
    probe = torch.zeros(1, 3, 32, 32)
    assert Explainer(randomised(mixing), probe).report.rows_are_independent is False
    assert Explainer(randomised(PlainCNN()), probe).report.rows_are_independent is True

    class OnlyOne(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(1, 3, 32, 32))

    assert Explainer(randomised(OnlyOne()), probe).report.rows_are_independent is None


def test_a_model_that_ends_in_probabilities_is_noticed() -> None:
    probe = torch.zeros(1, 3, 32, 32)
    plain, soft = PlainCNN(), nn.Sequential(PlainCNN(), nn.Softmax(1))
    assert not Explainer(randomised(plain), probe).report.ends_in_probabilities
    assert Explainer(randomised(soft), probe).report.ends_in_probabilities
    dense = nn.Sequential(UNet(), nn.Softmax(1))
    assert Explainer(randomised(dense), probe).report.ends_in_probabilities


def test_a_layer_that_returns_what_was_used_already_is_passed_over() -> None:
    class Reporting(nn.Module):
        """Returns its features beside their pooling; nobody reads the features again."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.conv(x).relu()
            return features, features.square().mean((2, 3))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Reporting()
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[1])

    explainer = Explainer(randomised(Network()), torch.zeros(1, 3, 32, 32))
    assert explainer.report.feature_layer == "body.conv"
    layers = {layer.name: layer for layer in explainer.report.layers}
    assert "a hook comes too late" in layers["body"].reason
    assert layers["body"].rank is None


class Sized(nn.Module):
    """As many channels as steps, and half as many steps behind a stride: no shape tells."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.stem = nn.Conv1d(12, 64, 3, 1, 1)
        self.down = nn.Conv1d(64, 64, 3, 2, 1)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 5)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.stem(x).relu()).relu()
        y = self.norm(y.transpose(1, 2))
        return self.head((y if self.last else self.norm(y)).square().mean(1))


def test_as_many_channels_as_steps() -> None:
    inputs = torch.randn(1, 12, 64)
    explainer = Explainer(randomised(Sized(last=True)), inputs, input_format="BCT")
    layers = {layer.name: layer for layer in explainer.report.layers}
    found = {name: (layer.format, layer.grid) for name, layer in layers.items() if layer.grid}
    assert found == {"stem": ("BCT", (64,)), "down": ("BCT", (32,)), "norm": ("BTC", (32,))}
    assert explainer.report.feature_layer == "norm"


def test_as_many_channels_as_rows_and_columns() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).square().mean((1, 2)))

    explainer = Explainer(randomised(Square()), torch.zeros(1, 3, 32, 32))
    layers = {layer.name: layer.format for layer in explainer.report.layers}
    assert layers == {"conv": "BCSS", "norm": "BSSC", "head": "BC"}


@needs_zoo
def test_the_vowels_as_their_card_has_them() -> None:
    """64 channels, and 64 steps where the probe's size is the usual one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        program = torch.export.load(ZOO / "models" / "vowels-tcn" / "model.pt2")
        network = torch.export.unflatten(program)
    for steps in (64, 32, 128, 48):
        report = Explainer(network, torch.zeros(1, 12, steps), input_format="BCT").report
        assert report.feature_layer == "block3"
        chosen = next(layer for layer in report.layers if layer.name == "block3")
        assert (chosen.format, chosen.grid) == ("BCT", (steps // 2,))
