"""A backbone in half precision under a head in float32; what overflows is computed again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import Attribution, ClassIndex, Diagnostic, Explainer, Target, Top
from camserve.engine.evaluation import shuffled_weights
from camserve.vocabulary import METHODS, Method, Precision
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
from tests.engine.test_borrowing import hooks
from tests.engine.test_methods import TRUTHS, Curved, Known, curved, guided_gradcam
from tests.engine.test_zoo import explainer, targets_of
from tests.engine.truth import difference
from tests.zoo import ZOO, cases, needs_zoo

HALVES: dict[Precision, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(6))


def pearson(a: Tensor, b: Tensor) -> float:
    a, b = (one.double().flatten() - one.double().mean() for one in (a, b))
    return float(a @ b / (a.norm() * b.norm()))


# The zoo


@dataclass(frozen=True)
class Group:
    """Cases of one model that share layer, score and input size: they are explained together."""

    layer: str
    reduction_layer: str
    inputs: Tensor
    targets: list[list[Target]]
    names: list[list[str]]
    references: list[list[NDArray[np.float64]]]
    """presum of each row and target"""


def gradcam_groups(model: str) -> Iterator[Group]:
    found: dict[tuple[Any, ...], Group] = {}
    for case in cases():
        if case["model"] != model or case["method"] != "gradcam":
            continue
        inputs = torch.from_numpy(np.concatenate([np.load(ZOO / file)["x"] for file in case["x"]]))
        score = case["target"].get("score", "logit") or "logit"
        key = (case["layer"], "output" if score == "logit" else score, tuple(inputs.shape[1:]))
        targets = targets_of(case, len(inputs))
        with np.load(ZOO / case["file"]) as stored:
            presum = stored["presum"]
        presum = presum.reshape(len(inputs), len(targets[0]), *presum.shape[-(inputs.ndim - 2) :])
        group = found.get(key) or Group(*key[:2], inputs[:0], [], [], [])
        found[key] = Group(
            *key[:2],
            torch.cat([group.inputs, inputs]),
            group.targets + targets,
            group.names + [[case["id"]] * len(targets[0])] * len(inputs),
            group.references + [list(row) for row in presum],
        )
    yield from found.values()


def agreements(
    model: str, explain: Callable[..., list[list[Attribution]]], **options: Any
) -> Iterator[tuple[str, str, float]]:
    """Case, layer, and Pearson's correlation with the float64 reference of each signed map."""
    for group in gradcam_groups(model):
        rows = explain(
            group.inputs,
            group.targets,
            feature_layer=group.layer,
            reduction_layer=group.reduction_layer,
            **options,
        )
        for row, names, references in zip(rows, group.names, group.references, strict=True):
            for one, name, reference in zip(row, names, references, strict=True):
                yield name, group.layer, pearson(one.map, torch.from_numpy(reference))


DEFAULT_LAYERS = {
    "cifar10-resnet20": "layer3",
    "cifar10-resnet56": "layer3",
    "digits-angle": "relu4",
    "shapes-multilabel": "stage4",
    "shapes-unet": "bottleneck",
    "volumes-cnn3d": "stage3",
    "vowels-tcn": "block3",
}


@needs_zoo
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("model", DEFAULT_LAYERS)
def test_zoo(model: str, precision: Precision) -> None:
    """Of bfloat16, 0.999 at the layers that are explained by default.

    Behind an earlier layer more ReLUs follow, and rounding to 8 bits puts some of them on the
    other side, each a step in the gradient; float16's 11 bits do not. So in the U-Net: case 168 is
    a sum over all pixels, behind whose bottleneck the whole decoder follows.
    """
    seen = 0
    for name, layer, agreement in agreements(
        model, explainer(model, torch.float32).explain, precision=precision
    ):
        whole = precision == "float16" or (layer == DEFAULT_LAYERS[model] and name != "168")
        assert agreement >= (0.999 if whole else 0.995), (name, layer)
        seen += 1
    assert (
        seen
        == {
            "cifar10-resnet20": 49,
            "cifar10-resnet56": 50,
            "digits-angle": 15,
            "shapes-multilabel": 30,
            "shapes-unet": 24,
            "volumes-cnn3d": 22,
            "vowels-tcn": 28,
        }[model]
    )


# The head is float32: half precision costs the rounding of the features, and nothing behind them


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


# What is borrowed is given back


@pytest.fixture(params=["no autocast", "bfloat16", "float16"])
def callers_autocast(request: pytest.FixtureRequest) -> Iterator[tuple[bool, torch.dtype]]:
    if request.param == "no autocast":
        yield (False, torch.get_autocast_dtype("cpu"))
        return
    with torch.autocast("cpu", HALVES[request.param]):
        yield (True, HALVES[request.param])


def autocast_now() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


@pytest.mark.parametrize("precision", ["float32", *HALVES])
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "guided-gradcam"])
def test_the_callers_autocast_is_as_before_and_does_not_reach_inside(
    callers_autocast: tuple[bool, torch.dtype], method: Method, precision: Precision
) -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    options: Any = {"method": method, "precision": precision}
    with torch.autocast("cpu", enabled=False):
        ((expected,),) = explainer.explain(inputs[:1], [[ClassIndex(1)]], **options)
    ((one,),) = explainer.explain(inputs[:1], [[ClassIndex(1)]], **options)
    assert autocast_now() == callers_autocast
    assert difference(one.map, expected.map) <= 1e-6
    for broken in ("stem", "tail"):  # in the backbone, in the head

        def fail(_module: nn.Module, _inputs: Any) -> None:
            raise KeyError("a fault of the model")

        breaking = model.get_submodule(broken).register_forward_pre_hook(fail)
        with pytest.raises(KeyError):
            explainer.explain(inputs[:1], [[ClassIndex(1)]], **options)
        breaking.remove()
        assert autocast_now() == callers_autocast
        assert hooks(model) == 0
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


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


# Overflow


class Scaled(nn.Module):
    """To the height `top`, that of a 4, and back: whether it overflows is up to the dtype alone."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=4) / 4 * self.top * (4 / self.top)


TOPS = {
    "float16": 7e4,  # its largest number is 65504
    "bfloat16": 3.398e38,  # 3.3895e38; 3.4028e38 is float32's
}


class Loud(PlainCNN):
    """Features of 4 overflow in half precision, and only there."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.scaled = Scaled(TOPS[precision])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scaled(self.features(x)).flatten(2).mean(2))


def loud(precision: str) -> tuple[Loud, Tensor]:
    """The network and two inputs: with features of 4 and more, and of at most 1."""
    model = randomised(Loud(precision))
    with torch.no_grad():
        for conv in (model.features[0], model.features[2]):
            conv.bias.zero_()  # so that the features grow with the input
        tops = [float(model.features(image[None]).max()) for image in IMAGES[:2]]
    return model, torch.stack([5 * IMAGES[0] / tops[0], IMAGES[1] / tops[1]])


def in_float32(model: Loud, inputs: Tensor, **options: Any) -> list[Tensor]:
    rows = Explainer(model, inputs[:1], feature_layer="scaled").explain(
        inputs, [[ClassIndex(1)]] * len(inputs), **options
    )
    assert not any(one.diagnostics for (one,) in rows)
    return [one.map for (one,) in rows]


def test_the_overflow_is_one_of_half_precision_alone() -> None:
    for precision, dtype in HALVES.items():
        model, inputs = loud(precision)
        top = model.features(inputs).amax((1, 2, 3)).clamp(max=4) / 4 * TOPS[precision]
        assert top.isfinite().all()
        assert top.to(dtype).isfinite().tolist() == [False, True]


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam", "scorecam", "ablationcam"])
def test_what_overflows_in_float16_is_computed_again(method: Method) -> None:
    model, inputs = loud("float16")
    explainer = Explainer(model, inputs[:1], feature_layer="scaled")
    exact = in_float32(model, inputs, method=method)
    targets = [[ClassIndex(1)]] * 2
    options: Any = {"method": method, "precision": "float16"}
    (retried,), (fine,) = explainer.explain(inputs, targets, **options)
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert difference(retried.map, exact[0]) <= 1e-6
    assert fine.diagnostics == ()
    assert 1e-6 < difference(fine.map, exact[1]) < 0.02  # in half precision it stays
    (other,), _ = explainer.explain(inputs, targets, method=method, precision="bfloat16")
    assert other.diagnostics == ()  # its range is float32's


def test_each_row_that_is_computed_again_keeps_its_targets() -> None:
    model, (high, low) = loud("float16")
    inputs = torch.stack([low, high, low, 1.5 * high])
    targets: list[list[Target]] = [[ClassIndex(0)], [ClassIndex(1)], [], [Top(2), ClassIndex(2)]]
    explainer = Explainer(model, inputs[:1], feature_layer="scaled")
    exact = explainer.explain(inputs, targets)
    found = explainer.explain(inputs, targets, precision="float16")
    for row in (1, 3):
        assert [one.class_index for one in found[row]] == [one.class_index for one in exact[row]]
        for one, other in zip(found[row], exact[row], strict=True):
            assert one.diagnostics == (Diagnostic.NONFINITE_RETRIED, *other.diagnostics)
            assert difference(one.map, other.map) <= 1e-6
            assert one.score == pytest.approx(other.score, rel=1e-6)
    assert Diagnostic.NONFINITE_RETRIED not in found[0][0].diagnostics
    assert found[2] == []


@pytest.mark.parametrize("precision", HALVES)
def test_a_model_whose_own_weights_are_half(precision: str) -> None:
    model, inputs = loud(precision)
    model.to(HALVES[precision])
    # what its half-precision weights give in float32
    twin = Loud(precision)
    twin.load_state_dict(model.state_dict())
    exact = in_float32(twin.eval(), inputs)
    explainer = Explainer(model, inputs[:1], feature_layer="scaled")
    half = inputs.to(HALVES[precision])
    (retried,), (fine,) = explainer.explain(half, [[ClassIndex(1)]] * 2)
    expected = in_float32(twin, half.float())
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert retried.map.dtype == torch.float32
    assert difference(retried.map, expected[0]) <= 1e-6
    assert fine.diagnostics == ()
    assert pearson(fine.map, exact[1]) >= 0.999
    assert {weight.dtype for weight in model.parameters()} == {HALVES[precision]}
    assert hooks(model) == 0


def test_the_retry_keeps_the_weights_that_were_given() -> None:
    model, inputs = loud("float16")
    model.half()
    explainer = Explainer(model, inputs[:1], feature_layer="scaled")
    # not in random order, which might not overflow: the classes in another order
    given = {**dict(model.named_parameters()), "head.weight": model.head.weight.flip(0)}
    (retried,), _ = explainer.explain(inputs, [[ClassIndex(1)]] * 2, weights=given)
    twin = Loud("float16")
    twin.load_state_dict({**model.state_dict(), **given})
    expected = in_float32(twin.eval(), inputs.half().float())
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert difference(retried.map, expected[0]) <= 1e-6


@pytest.mark.parametrize("precision", ["float32", *HALVES])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_nan_in_the_input_stays_nonfinite(precision: Precision, own: torch.dtype) -> None:
    model = randomised(PlainCNN()).to(own)
    inputs = IMAGES[:2].clone()
    inputs[1, 0, 3, 3] = torch.nan
    (good,), (bad,) = Explainer(model, inputs[:1]).explain(
        inputs, [[ClassIndex(1)]] * 2, precision=precision
    )
    assert bad.diagnostics == (Diagnostic.NONFINITE,)
    assert Diagnostic.NONFINITE not in good.diagnostics
    assert Diagnostic.NONFINITE_RETRIED not in good.diagnostics


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
