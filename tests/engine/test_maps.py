"""The maps against closed forms, a hand-written float64 autograd, and Captum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from captum.attr import LayerGradCam
from torch import Tensor, nn

from camserve.engine import Attribution, ClassIndex, Explainer
from camserve.engine.methods.gradient import grad_cam
from camserve.errors import ShapeMismatch
from tests.engine.networks import (
    ClassTokenViT,
    DenseNetLike,
    MobileNetLike,
    PlainCNN,
    ResNetLike,
    TemporalCNN,
    VGGLike,
    VolumeCNN,
    randomised,
)
from tests.engine.truth import difference, hand_map

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
CLASS = 2


def tokens(prefix: int) -> Any:
    """(1, prefix + 16, K) to (1, K, 4, 4)."""
    return lambda features: features[:, prefix:].transpose(1, 2).reshape(1, -1, 4, 4)


def hugging_face_vit() -> nn.Module:
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


# layer, network, the same network for Captum, features to (1, K, *S)
CASES = {
    "plain": ("features", PlainCNN, PlainCNN, lambda f: f),
    "plain, early": ("features.0", PlainCNN, PlainCNN, lambda f: f),
    # Captum keeps the layer's tensor itself: an in-place ReLU behind the layer rewrites it or
    # raises, so it gets the out-of-place twin with the same weights.
    "resnet": ("layer2", ResNetLike, lambda: ResNetLike(inplace=False), lambda f: f),
    "resnet, bn1": ("layer2.0.bn1", ResNetLike, lambda: ResNetLike(inplace=False), lambda f: f),
    "resnet, bn2": ("layer1.1.bn2", ResNetLike, lambda: ResNetLike(inplace=False), lambda f: f),
    "densenet": ("norm", DenseNetLike, lambda: DenseNetLike(inplace=False), lambda f: f),
    "densenet, early": ("stem", DenseNetLike, lambda: DenseNetLike(inplace=False), lambda f: f),
    "mobilenet": ("project", MobileNetLike, MobileNetLike, lambda f: f),
    "mobilenet, early": ("depthwise", MobileNetLike, MobileNetLike, lambda f: f),
    # Captum has no notion of tokens: it would average over channels.
    "vit": ("blocks.2.norm1", ClassTokenViT, None, tokens(1)),
    "vit, registers": ("blocks.1", lambda: ClassTokenViT(prefix=4), None, tokens(4)),
    "vit, transformers": ("vit.layers.1.layernorm_before", hugging_face_vit, None, tokens(1)),
    # the layer behind which an in-place ReLU follows: nothing but the hand-written way can do it
    "vgg": ("features.3", VGGLike, None, lambda f: f),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
def test_agrees_with_hand_written_autograd_and_captum(
    case: tuple[str, Any, Any, Any], dtype: torch.dtype, tolerance: float
) -> None:
    layer, build, build_twin, maps = case
    model = randomised(build()).to(dtype)
    weights = model.state_dict()
    truth = hand_map(model, layer, IMAGE.to(dtype), lambda row: row[CLASS], maps=maps)
    [[attribution]] = Explainer(model, IMAGE, feature_layer=layer).explain(
        IMAGE, [[ClassIndex(CLASS)]]
    )
    assert attribution.map.dtype == dtype
    assert difference(attribution.map, truth) <= tolerance
    if build_twin is not None:
        twin = build_twin().to(dtype).eval()
        twin.load_state_dict(weights)
        captum = LayerGradCam(twin, twin.get_submodule(layer)).attribute(IMAGE.to(dtype), CLASS)
        assert difference(attribution.map, captum[0, 0].detach()) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_pooled_linear_head_gives_cam_over_size(
    dimensions: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Zhou et al. 2016: with a mean over |S| positions and one linear layer, w_k = W_ck / |S|."""
    model = randomised(PlainCNN(dimensions=dimensions)).to(dtype)
    inputs = torch.randn(1, 3, *[20, 16, 12][:dimensions], dtype=dtype)
    explainer = Explainer(model, inputs)
    [attributions] = explainer.explain(inputs, [[ClassIndex(index) for index in range(5)]])
    with torch.no_grad():
        features = model.features(inputs)[0]
        cams = torch.einsum("ck,k...->c...", model.head.weight, features) / features[0].numel()
        logits = model(inputs)[0]
    assert explainer.report.feature_layer == "features"
    for index, attribution in enumerate(attributions):
        assert difference(attribution.map, cams[index]) <= tolerance
        assert attribution.score == pytest.approx(float(logits[index]), rel=1e-5)
        assert attribution.class_index == index


@pytest.mark.parametrize(("network", "layer", "size"), [
    (VolumeCNN, "features.0", (12, 8, 8)),
    (TemporalCNN, "block1", (30,)),
])  # fmt: skip
def test_volumes_and_sequences(network: Any, layer: str, size: tuple[int, ...]) -> None:
    model = randomised(network())
    inputs = torch.randn(1, 3, *size)
    truth = hand_map(model, layer, inputs, lambda row: row[1])
    [[attribution]] = Explainer(model, inputs).explain(
        inputs, [[ClassIndex(1)]], feature_layer=layer
    )
    assert difference(attribution.map, truth) <= 1e-5


def test_channels_last_features() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 4, 4)
            self.norm = nn.LayerNorm(10)
            self.head = nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x).permute(0, 2, 3, 1))
            return self.head(x.square().mean((1, 2)))

    model = randomised(ChannelsLast())
    inputs = torch.randn(1, 3, 32, 48)
    truth = hand_map(
        model, "norm", inputs, lambda row: row[0], maps=lambda f: f.permute(0, 3, 1, 2)
    )
    explainer = Explainer(model, inputs)
    [[attribution]] = explainer.explain(inputs, [[ClassIndex(0)]])
    assert explainer.report.feature_layer == "norm"
    assert attribution.map.shape == (8, 12)
    assert difference(attribution.map, truth) <= 1e-5


def test_tokens_of_another_input_size() -> None:
    """A layer's layout is found once, its grid follows the input."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 10, 4, 4)
            self.norm = nn.LayerNorm(10)
            self.head = nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).square().mean(1))

    model = randomised(Patches())
    explainer = Explainer(model, torch.zeros(1, 3, 32, 32))
    inputs = torch.randn(1, 3, 24, 40)
    truth = hand_map(
        model,
        "norm",
        inputs,
        lambda row: row[0],
        maps=lambda f: f.transpose(1, 2).reshape(1, 10, 6, 10),
    )
    [[attribution]] = explainer.explain(inputs, [[ClassIndex(0)]])
    assert difference(attribution.map, truth) <= 1e-5


def test_grad_cam_is_the_formula() -> None:
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])  # (1, 2, 1, 2)
    gradients = torch.tensor([[[[2.0, 4.0]], [[-1.0, 0.0]]]])  # means 3 and -0.5
    assert grad_cam(activations, gradients).tolist() == [[[1.5, 8.0]]]
    stacked = torch.stack([gradients, -2 * gradients])
    assert grad_cam(activations, stacked).tolist() == [[[[1.5, 8.0]]], [[[-3.0, -16.0]]]]


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (1, 2), (1, 3, 1, 2), (2, 1, 2)])
def test_grad_cam_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch):
        grad_cam(torch.ones(1, 2, 1, 2), torch.ones(shape))


def test_half_precision_model_gives_float32_maps() -> None:
    model = randomised(PlainCNN())
    [[exact]] = Explainer(model, IMAGE).explain(IMAGE, [[ClassIndex(1)]])
    [[half]] = Explainer(model.bfloat16(), IMAGE).explain(IMAGE, [[ClassIndex(1)]])
    assert half.map.dtype == torch.float32
    pair = torch.stack([exact.map.flatten(), half.map.flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) >= 0.999


def test_attribution_is_frozen_and_owns_its_map() -> None:
    [[first, second]] = Explainer(randomised(PlainCNN()), IMAGE).explain(
        IMAGE, [[ClassIndex(0), ClassIndex(1)]]
    )
    assert isinstance(first, Attribution)
    with pytest.raises(AttributeError):
        first.score = 0.0  # type: ignore[misc]
    assert first.map.untyped_storage().nbytes() == first.map.numel() * 4
    assert not first.map.requires_grad
    assert second.map.device.type == "cpu"
