"""A backbone in half precision under a head in float32: half precision costs the rounding of the
features, and nothing behind them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import ClassIndex, Explainer, Top
from camserve.engine.evaluation import shuffled_weights
from camserve.vocabulary import METHODS, Method, Precision
from tests.engine.curved import Curved, curved
from tests.engine.formulas import TRUTHS, Known, guided_gradcam
from tests.engine.half_precision import HALVES, IMAGES
from tests.engine.hooks import hooks
from tests.engine.networks import (
    ClassTokenViT,
    DenseNetLike,
    MobileNetLike,
    PlainCNN,
    ResNetLike,
    TemporalCNN,
    UNet,
    VGGLike,
    VolumeCNN,
    randomised,
)
from tests.engine.truth import difference, pearson


class HalfKnown(Known):
    """The network by its two halves: autocast before the layer, float64 behind it."""

    def __init__(self, model: Curved, x: Tensor, class_index: int, dtype: torch.dtype) -> None:
        self.half, self.dtype = model, dtype
        super().__init__(model, x, class_index)
        self.leaf = self.features(x).requires_grad_()
        self.logits = self.model.after(self.leaf)[0]
        self.a = self.leaf.detach()[0].numpy()
        self.y = float(self.logits[class_index].detach())

    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", self.dtype):
            features = self.half.before(x.float())
        assert features.dtype == self.dtype
        return features.double()

    def score(self, x: Tensor) -> float:
        with torch.no_grad():
            return float(self.model.after(self.features(x))[0, self.class_index])


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided-gradcam"])
def test_the_head_is_float32_for_every_method(
    method: Method, dimensions: int, precision: Precision
) -> None:
    model, inputs = curved(dimensions)
    known = HalfKnown(model, inputs[:1], 1, HALVES[precision])
    ((one,),) = Explainer(model, inputs[:1], feature_layer="features").explain(
        inputs[:1], [[ClassIndex(1)]], method=method, precision=precision
    )
    exact = torch.from_numpy(TRUTHS[method](Known(model, inputs[:1], 1)))
    assert difference(one.map, torch.from_numpy(TRUTHS[method](known))) <= 1e-5
    assert difference(one.map, exact) > 1e-4  # and the backbone is not
    assert one.score == pytest.approx(known.y, rel=1e-6) or method == "finercam"


class SquaresFirst(Curved):
    """Behind the layer comes no module but arithmetic, which casts nothing by itself."""

    def after(self, features: Tensor, relu: Callable[[Tensor], Tensor] = functional.relu) -> Tensor:
        return super().after(features.square() / 3, relu)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_arithmetic_behind_the_layer_is_float32(method: Method, precision: Precision) -> None:
    _, inputs = curved()
    model = randomised(SquaresFirst(), seed=2)
    known = HalfKnown(model, inputs[:1], 1, HALVES[precision])
    ((one,),) = Explainer(model, inputs[:1], feature_layer="features").explain(
        inputs[:1], [[ClassIndex(1)]], method=method, precision=precision
    )
    assert difference(one.map, torch.from_numpy(TRUTHS[method](known))) <= 1e-5


@pytest.mark.parametrize("precision", HALVES)
def test_guided_gradcam_in_half_precision(precision: Precision) -> None:
    """Its way back through the backbone is in half precision too: no closed form, but near."""
    model, inputs = curved()
    ((one,),) = Explainer(model, inputs[:1], feature_layer="features").explain(
        inputs[:1], [[ClassIndex(1)]], method="guided-gradcam", precision=precision
    )
    exact = torch.from_numpy(guided_gradcam(Known(model, inputs[:1], 1)))
    assert one.map.dtype == torch.float32
    assert 1e-5 < difference(one.map, exact) < 0.05
    assert pearson(one.map, exact) >= 0.999


class Pyramid(nn.Module):
    """Its head reads the backbone past the layer: through a norm, a pool and weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(8)
        self.lateral = nn.Conv2d(8, 12, 1)
        self.branch = nn.Linear(8, 5)
        self.out = nn.Conv2d(12, 5, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        joined = functional.relu(self.lateral(self.norm(self.pool(input=low))) + high)
        return self.out(joined).mean((2, 3)) + self.branch(low.mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "plain": (PlainCNN, "features", (32, 32)),
    "resnet": (ResNetLike, "layer2", (32, 32)),
    "resnet, early": (ResNetLike, "layer1", (32, 32)),
    "densenet": (DenseNetLike, "norm", (32, 32)),
    "densenet, grow1": (DenseNetLike, "grow1", (32, 32)),  # the skip around it is half
    "mobilenet": (MobileNetLike, "project", (32, 32)),
    "vgg, in place": (VGGLike, "features.4", (32, 32)),
    "vit": (ClassTokenViT, "blocks.2.norm1", (32, 32)),
    "vit, early": (ClassTokenViT, "blocks.0", (32, 32)),
    "unet": (UNet, "bottleneck", (32, 32)),
    "pyramid": (Pyramid, "high", (32, 32)),
    "volume": (VolumeCNN, "features", (12, 8, 8)),
    "sequence": (TemporalCNN, "block2", (30,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", HALVES)
def test_half_before_the_layer_and_float32_behind_it(name: str, precision: Precision) -> None:
    build, layer, size = NETWORKS[name]
    model = randomised(build())
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    explainer = Explainer(model, inputs[:1], feature_layer=layer)
    exact = explainer.explain(inputs, [[ClassIndex(1)]] * 2)
    before: list[tuple[str, nn.Module, torch.dtype]] = []
    behind: list[tuple[str, nn.Module, torch.dtype]] = []
    passed = False

    def see(module: nn.Module, output: Tensor, name: str) -> None:
        nonlocal passed
        (behind if passed else before).append((name, module, output.dtype))
        passed = passed or name == layer

    handles = [
        module.register_forward_hook(lambda m, _i, output, name=name: see(m, output, name))
        for name, module in model.named_modules()
    ]
    found = explainer.explain(inputs, [[ClassIndex(1)]] * 2, precision=precision)
    for handle in handles:
        handle.remove()
    heavy = [dtype for _, m, dtype in before if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    assert set(heavy) == {HALVES[precision]}
    assert len(behind) >= 1
    assert {dtype for _, _, dtype in behind} == {torch.float32}, behind
    for (one,), (other,) in zip(found, exact, strict=True):
        assert one.map.dtype == torch.float32
        assert pearson(one.map, other.map) >= 0.999
        assert difference(one.map, other.map) > 1e-6  # half it was
    assert {weight.dtype for weight in model.state_dict().values() if weight.ndim} == {
        torch.float32
    }
    assert hooks(model) == 0


@pytest.mark.parametrize("layers", [("layer1", "layer2"), ("layer2", "layer1.0.relu")])
def test_of_several_layers_the_first_that_runs_ends_the_half(layers: tuple[str, str]) -> None:
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    seen: dict[str, torch.dtype] = {}
    for name in ("stem", "layer1.0.shortcut", "layer1.1.conv2", "layer2.0.conv1", "fc"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.__setitem__(name, output.dtype)
        )
    options: Any = {"feature_layer": layers, "precision": "bfloat16"}
    ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], **options)
    late = torch.float32 if "layer1.0.relu" in layers else torch.bfloat16
    assert seen == {
        "stem": torch.bfloat16,
        # the block's ReLU returns for the first time before the shortcut runs
        "layer1.0.shortcut": late,
        "layer1.1.conv2": late,
        "layer2.0.conv1": torch.float32,
        "fc": torch.float32,
    }
    ((exact,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], feature_layer=layers)
    for found, expected in zip(one.maps, exact.maps, strict=True):
        assert pearson(found, expected) >= 0.999


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", HALVES)
def test_models_of_another_dtype_run_as_they_are(dtype: torch.dtype, precision: Precision) -> None:
    """`precision` is of float32 models: in others, weights and casts would not fit together."""
    model, inputs = curved()
    explainer = Explainer(model.to(dtype), inputs[:1], feature_layer="features")
    plain = explainer.explain(inputs, [[Top(2)]] * 2)
    asked = explainer.explain(inputs, [[Top(2)]] * 2, precision=precision)
    for row, expected in zip(asked, plain, strict=True):
        for one, other in zip(row, expected, strict=True):
            assert torch.equal(one.map, other.map)


def test_half_precision_with_other_weights() -> None:
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    weights = shuffled_weights(model)
    found = explainer.explain(IMAGES, [[Top(1)]] * 3, precision="float16", weights=weights)
    classes = [[ClassIndex(row[0].class_index or 0)] for row in found]
    exact = explainer.explain(IMAGES, classes, weights=weights)
    for (one,), (other,) in itertools.zip_longest(found, exact):
        assert pearson(one.map, other.map) >= 0.999
        assert difference(one.map, other.map) > 1e-6
