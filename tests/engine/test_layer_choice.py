"""The layers that are chosen automatically: by name, on the architectures that people serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import ClassIndex, Explainer, LayerReport, ModelReport
from tests.engine.families import FAMILIES, Family
from tests.engine.layer_table import PAGE, explainer_of, page
from tests.engine.networks import (
    ClassTokenViT,
    DenseNetLike,
    MobileNetLike,
    ResNetLike,
    TemporalCNN,
    UNet,
    VGGLike,
    VolumeCNN,
    randomised,
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_families(family: Family) -> None:
    explainer = explainer_of(family)
    report = explainer.report
    assert report.feature_layer == family.layer
    chosen = layer_report(report, family.layer)
    assert (chosen.grid, chosen.prefix_tokens) == (family.grid, family.prefix)
    assert chosen.rank == 1
    assert report.rows_are_independent
    torch.manual_seed(1)
    inputs = torch.randn(family.shape)
    [[attribution]] = explainer.explain(inputs, [[ClassIndex(1)]])
    assert attribution.map.shape == family.grid
    assert attribution.map.abs().max() > 0


def test_the_table_in_the_documentation_is_what_is_chosen() -> None:
    assert PAGE.read_text("utf-8") == page()


def test_every_family_of_the_promise_is_there() -> None:
    """What the documentation says the choice is right for."""
    promised = [
        "ResNet",
        "VGG",
        "DenseNet",
        "MobileNet",
        "EfficientNet",
        "ConvNeXt",
        "RegNet",
        "Inception",
        "ViT",
        "DeiT",
        "DINOv2",
        "registers",
        "BEiT",
        "Swin",
        "PVT",
        "SegFormer",
        "U-Net",
        "GRU",
    ]
    names = " ".join(family.name for family in FAMILIES)
    assert [name for name in promised if name not in names] == []


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "vgg": (VGGLike, (32, 32), "features"),
    "resnet": (ResNetLike, (32, 32), "layer2"),
    "densenet": (DenseNetLike, (32, 32), "norm"),
    "mobilenet": (MobileNetLike, (32, 32), "project"),
    "u-net": (UNet, (32, 32), "bottleneck"),
    "volumes": (VolumeCNN, (16, 16, 12), "features"),
    "sequences": (TemporalCNN, (50,), "block2"),
    "class token": (ClassTokenViT, (32, 32), "blocks.2.norm1"),
    # heads 4, width of a head 6, tokens 20: nothing but the tokens is a 4x4 grid
    "class token and registers": (lambda: ClassTokenViT(prefix=4), (32, 32), "blocks.2.norm1"),
    # 17 tokens and heads of width 17: k_norm is (heads, 17, 17), as square as the image
    "head as wide as tokens": (lambda: ClassTokenViT(width=68), (32, 32), "blocks.2.norm1"),
}


@pytest.mark.parametrize("name", OWN)
def test_own_networks(name: str) -> None:
    build, size, layer = OWN[name]
    report = Explainer(randomised(build()), torch.zeros(1, 3, *size)).report
    assert report.feature_layer == layer
    assert report.candidates()[0] == layer
    assert not [name for name in report.candidates() if "attn." in name and "blocks.2" in name]


def layer_report(report: ModelReport, name: str) -> LayerReport:
    (found,) = [layer for layer in report.layers if layer.name == name]
    return found


def test_report_of_a_resnet() -> None:
    report = Explainer(randomised(ResNetLike()), torch.zeros(1, 3, 32, 32)).report
    assert report.output_shape == (5,)
    assert report.classes == 5
    assert report.reduction_layer == "output"
    chosen = layer_report(report, "layer2")
    assert (chosen.shape, chosen.format, chosen.grid) == ((1, 16, 4, 4), "BCSS", (4, 4))
    assert chosen.candidate
    assert chosen.gradient_reach == 1.0
    assert chosen.reason == report.feature_reason
    inner = layer_report(report, "layer2.1.relu")  # in place: a new version is a new tensor
    assert not inner.candidate
    assert "'layer2'" in inner.reason
    assert layer_report(report, "fc").format == "BC"
    assert not layer_report(report, "fc").candidate
    names = [layer.name for layer in report.layers]
    assert names.index("layer1.0.conv1") < names.index("layer1") < names.index("layer2.0.conv1")
    assert report.candidates()[0] == "layer2"
    assert report.candidates()[-1] == "stem"


def test_every_reason_is_a_sentence() -> None:
    for build in (ResNetLike, ClassTokenViT, UNet):
        report = Explainer(randomised(build()), torch.zeros(1, 3, 32, 32)).report
        for layer in report.layers:
            assert len(layer.reason.split()) >= 4, layer
        assert len(report.feature_reason.split()) >= 8


@pytest.mark.parametrize("size", [(299, 299), (97, 130), (33, 65)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    """Unpadded strides, as in Inception: 299 -> 149 -> 74 -> 36 -> 17."""
    model = randomised(
        nn.Sequential(
            *[nn.Conv2d(3 if i == 0 else 6, 6, 3, 2) for i in range(4)],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )
    )
    report = Explainer(model, torch.zeros(1, 3, *size)).report
    assert report.feature_layer == "3"


def test_zero_initialised_head_falls_back_to_reachability() -> None:
    model = randomised(ResNetLike())
    nn.init.zeros_(model.fc.weight)
    report = Explainer(model, torch.zeros(1, 3, 32, 32)).report
    assert report.feature_layer == "layer2"
    assert "zero" in report.feature_reason


def test_a_layer_beside_the_path_to_the_score_is_passed_over() -> None:
    class Auxiliary(ResNetLike):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Any:
            features = self.layer2(self.layer1(self.stem(x)))
            auxiliary = self.auxiliary(features)
            return {"logits": self.fc(self.avgpool(features).flatten(1)), "auxiliary": auxiliary}

    report = Explainer(randomised(Auxiliary()), torch.zeros(1, 3, 32, 32)).report
    assert report.feature_layer == "layer2"
    assert "does not depend" in layer_report(report, "auxiliary").reason


def test_a_backbone_that_has_used_its_features_is_not_named() -> None:
    """Outside, only a part of the gradient arrives: the map would miss the pooled branch."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.conv(x)
            return features, features.square().mean((2, 3))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone()
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            features, pooled = self.backbone(x)
            return self.head(pooled + features.mean((2, 3)))

    report = Explainer(randomised(Network()), torch.zeros(1, 3, 32, 32)).report
    assert report.feature_layer == "backbone.conv"


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


def test_max_pooling_that_hears_few_positions() -> None:
    """Six channels can point at six of 64 positions: the map before the last convolution it is."""
    model = randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1),
            nn.Conv2d(8, 6, 5, 1, 2),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )
    )
    report = Explainer(model, torch.zeros(1, 3, 32, 32)).report
    assert report.feature_layer == "0"
    assert "reaches only" in layer_report(report, "1").reason


def test_what_is_only_resized_into_a_dense_output_does_not_count() -> None:
    class FCN(nn.Module):
        """All at one resolution: the last map of it would be the scores themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
            self.scores = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return functional.interpolate(
                self.scores(self.body(x)), size=x.shape[2:], mode="bilinear", align_corners=False
            )

    report = Explainer(randomised(FCN()), torch.zeros(1, 3, 32, 32)).report
    assert report.feature_layer == "body"
    assert layer_report(report, "scores").reason == "it is only resized into the output"
