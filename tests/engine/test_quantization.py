"""Weights as int8 up to the feature layer: how much smaller, how near, and the head untouched."""

from __future__ import annotations

import copy
import functools
import gc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Diagnostic, Explainer
from camserve.engine.evaluation import shuffled_weights
from camserve.engine.quantization import quantize_weights
from camserve.vocabulary import Method
from tests.engine.networks import ClassTokenViT, PlainCNN, ResNetLike, UNet, randomised
from tests.engine.test_borrowing import hooks
from tests.engine.test_precision import DEFAULT_LAYERS, Loud, agreements, loud, pearson
from tests.engine.truth import difference
from tests.zoo import ZOO, cases, needs_zoo

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))


def quantized(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose weight is kept as int8, by name; of each the first name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "parametrizations") and "weight" in module.parametrizations
    }


def stored(module: nn.Module) -> tuple[Tensor, Tensor]:
    """The integers and the scales."""
    kept = module.parametrizations.weight
    return kept.original0, kept.original1


def rounded(weight: Tensor) -> Tensor:
    """By hand, channel by channel: to the nearest of 255 steps, the outermost at the largest."""
    channels = []
    for channel in weight.detach().numpy():
        step = np.abs(channel).max() / np.float32(127) or np.float32(1)
        channels.append(np.rint(channel / step) * step)
    return torch.from_numpy(np.stack(channels))


def rounded_twin(model: nn.Module, names: list[str]) -> nn.Module:
    """The model with these weights rounded, in floating point all of it."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            weight = twin.get_submodule(name).weight
            weight.copy_(rounded(weight))
    return twin


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# The zoo


@functools.cache
def program(model: str) -> tuple[Explainer, dict[str, Tensor]]:
    """The program's int8 explainer, and its weights as they were."""
    with warnings.catch_warnings():
        # torch 2.13 uses a pytree class that it has itself deprecated whenever it loads a program
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        network = torch.export.unflatten(torch.export.load(ZOO / "models" / model / "model.pt2"))
    weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
    case = next(case for case in cases() if case["model"] == model)
    probe = torch.from_numpy(np.load(ZOO / case["x"][0])["x"][:1])
    return Explainer(network, probe, quantization="int8"), weights


@needs_zoo
@pytest.mark.parametrize("model", DEFAULT_LAYERS)
def test_zoo(model: str) -> None:
    """Every gradcam case, of probabilities and of early layers too. None had to be left out: where
    nothing is left after the ReLU (`all_zero`) the signed map still has its ups and downs."""
    seen = 0
    for name, layer, agreement in agreements(model, program(model)[0].explain):
        assert agreement >= 0.98, (name, layer)
        seen += 1
    assert seen >= 15


@needs_zoo
@pytest.mark.parametrize("model", DEFAULT_LAYERS)
def test_zoo_memory_and_the_head(model: str) -> None:
    explainer, weights = program(model)
    report, network = explainer.report, explainer.model
    order = [layer.name for layer in report.layers]
    backbone = order[: order.index(DEFAULT_LAYERS[model]) + 1]
    found = quantized(network)
    large = {
        name
        for name in backbone
        if f"{name}.weight" in weights
        and weights[f"{name}.weight"].ndim > 1
        and weights[f"{name}.weight"].numel() >= 256
    }
    assert set(found) == large
    assert len(large) >= 2
    before = nbytes(weights[f"{name}.weight"] for name in large)
    after = nbytes(tensor for module in found.values() for tensor in stored(module))
    assert 0.25 < after / before < 0.28
    for name, weight in network.state_dict().items():
        if ".parametrizations." not in name:
            assert torch.equal(weight, weights[name]), name
    behind = [name for name in order if name not in backbone and f"{name}.weight" in weights]
    assert behind
    for name in behind:
        assert torch.equal(network.get_submodule(name).weight, weights[f"{name}.weight"])


# What is kept


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(40, 9),
        lambda: nn.Conv1d(8, 12, 5),
        lambda: nn.Conv2d(8, 12, 3),
        lambda: nn.Conv3d(4, 12, 3),
        lambda: nn.Conv2d(32, 32, 3, groups=32),
        lambda: nn.ConvTranspose2d(8, 12, 3),
        lambda: nn.Embedding(50, 12),
    ],
)
def test_each_channel_is_within_half_a_step(build: Any) -> None:
    module = build()
    with torch.no_grad():
        module.weight.mul_(
            torch.logspace(-6, 6, len(module.weight))[:, *[None] * (module.weight.ndim - 1)]
        )
        module.weight[1] = 0  # dead
        module.weight[2].flatten()[0] = -50 * module.weight[2].abs().max()  # an outlier
    weight = module.weight.detach().clone()
    assert quantize_weights([module]) == 1
    assert torch.equal(module.weight[1], torch.zeros_like(module.weight[1]))
    assert module.weight.dtype == torch.float32
    for channel, exact in zip(module.weight, weight, strict=True):
        step = float(exact.abs().max()) / 127
        assert float((channel - exact).abs().max()) <= step / 2 * (1 + 1e-4)
        # the largest is met, so that the range is used
        assert float((channel.abs().max() - exact.abs().max()).abs()) <= 1e-6 * step * 127
    assert difference(module.weight, rounded(weight)) <= 1e-6
    integers, scales = stored(module)
    assert integers.dtype == torch.int8
    assert integers.shape == weight.shape
    assert scales.numel() == len(weight)
    assert bool((scales > 0).all())  # of a dead channel too: nothing is divided by 0


def test_what_is_small_flat_or_no_number_stays() -> None:
    modules: list[nn.Module] = [
        nn.Conv2d(3, 3, 3),  # 81 numbers
        nn.BatchNorm2d(300),
        nn.LayerNorm(300),
        nn.ReLU(),
    ]
    integral = nn.Module()
    integral.weight = nn.Parameter(torch.ones(20, 20, dtype=torch.int32), requires_grad=False)
    nowhere = nn.Linear(30, 30)
    nowhere.weight = None
    before = [m.weight for m in modules[:3]]
    assert quantize_weights([*modules, integral, nowhere]) == 0
    assert all(m.weight is weight for m, weight in zip(modules[:3], before, strict=True))
    twice = nn.Linear(30, 30)
    assert quantize_weights([twice, twice]) == 1
    assert quantize_weights([twice]) == 0


def test_the_numbers_before_are_freed() -> None:
    model = randomised(ResNetLike())
    kept = {
        name: weakref.ref(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    Explainer(model, IMAGES[:1], feature_layer="layer1", quantization="int8")
    gc.collect()
    freed = {name for name, weight in kept.items() if weight() is None}
    assert freed == set(quantized(model))
    assert freed
    assert all(name.startswith("layer1") for name in freed)


# Which modules


@pytest.mark.parametrize("feature_layer", ["layer1", "layer2", ["layer2", "layer1.0.conv2"]])
def test_modules_up_to_the_first_layer(feature_layer: Any) -> None:
    model = randomised(ResNetLike())
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: order.append(name))
        for name, module in model.named_modules()
    ]
    model(IMAGES[:1])
    for handle in handles:
        handle.remove()
    first = "layer1.0.conv2" if isinstance(feature_layer, list) else feature_layer
    before = order[: len(order) - order[::-1].index(first)]
    large = {
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 255
    }
    head = {name: w.clone() for name, w in model.state_dict().items()}
    Explainer(model, IMAGES[:1], feature_layer=feature_layer, quantization="int8")
    assert set(quantized(model)) == large & set(before)
    for name in large - set(before):
        assert torch.equal(model.get_submodule(name).weight, head[f"{name}.weight"])
    assert torch.equal(model.fc.weight, head["fc.weight"])


class Again(nn.Module):
    """`shared` and `block` run before the layer and once more behind it, under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.shared = nn.Conv2d(8, 8, 3, 1, 1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.alone = nn.Conv2d(8, 8, 3, 1, 1)
        self.layer = nn.Conv2d(8, 8, 3, 1, 1)
        self.again = self.shared
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.alone(self.block(self.shared(self.stem(x)))).relu())
        return self.head(self.block(self.again(x.relu())).mean((2, 3)))


def test_a_module_that_runs_again_behind_the_layer_stays() -> None:
    model = randomised(Again())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    twin = rounded_twin(model, ["alone", "layer"])
    explainer = Explainer(model, IMAGES[:1], feature_layer="layer", quantization="int8")
    assert set(quantized(model)) == {"alone", "layer"}  # the stem's 216 numbers are too few
    assert torch.equal(model.shared.weight, before["shared.weight"])
    assert torch.equal(model.block[0].weight, before["block.0.weight"])
    ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
    ((other,),) = Explainer(twin, IMAGES[:1], feature_layer="layer").explain(
        IMAGES[:1], [[ClassIndex(1)]]
    )
    assert difference(one.map, other.map) <= 1e-6


class Tied(nn.Module):
    """One weight in two modules before the layer, another in one before and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.first = nn.Conv2d(12, 12, 3, 1, 1)
        self.second = nn.Conv2d(12, 12, 3, 1, 1)
        self.before = nn.Conv2d(12, 12, 3, 1, 1)
        self.layer = nn.ReLU()
        self.behind = nn.Conv2d(12, 12, 3, 1, 1)
        self.head = nn.Linear(12, 5)
        self.second.weight = self.first.weight
        self.behind.weight = self.before.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.before(self.second(self.first(self.stem(x)).relu()).relu()))
        return self.head(self.behind(x).relu().mean((2, 3)))


def test_weights_that_two_modules_share() -> None:
    model = randomised(Tied())
    shared = model.before.weight.detach().clone()
    whole = nbytes({id(w): w for w in model.parameters()}.values())
    twin = rounded_twin(model, ["first"])  # and so the second
    explainer = Explainer(model, IMAGES[:1], feature_layer="layer", quantization="int8")
    # the head's weight stays as it is, and then there is nothing to gain from rounding a copy
    assert torch.equal(model.behind.weight, shared)
    assert model.before.weight is model.behind.weight
    assert set(quantized(model)) == {"stem", "first", "second"}
    assert torch.equal(model.second.weight, model.first.weight)
    rounded_stem = rounded_twin(twin, ["stem"])
    ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
    ((other,),) = Explainer(rounded_stem, IMAGES[:1], feature_layer="layer").explain(
        IMAGES[:1], [[ClassIndex(1)]]
    )
    assert difference(one.map, other.map) <= 1e-6
    # kept once: a quarter of the two weights that were rounded
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    saved = whole - nbytes(tensors.values())
    assert saved > 0.7 * 4 * (12 * 3 * 9 + 12 * 12 * 9)


# The maps are those of the rounded weights


NETWORKS: dict[str, tuple[Any, Any, str]] = {
    "resnet": (ResNetLike, torch.float32, "layer2"),
    "resnet, float64": (ResNetLike, torch.float64, "layer2"),
    "vit": (ClassTokenViT, torch.float32, "blocks.2.norm1"),
    "unet": (UNet, torch.float32, "bottleneck"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "ablationcam"])
def test_maps_are_those_of_the_rounded_weights(name: str, method: Method) -> None:
    build, dtype, layer = NETWORKS[name]
    model = randomised(build()).to(dtype)
    twin = copy.deepcopy(model)
    explainer = Explainer(model, IMAGES[:1], quantization="int8")
    assert explainer.report.feature_layer == layer
    names = list(quantized(model))
    assert len(names) >= 2
    for weight_name in names:
        with torch.no_grad():
            weight = twin.get_submodule(weight_name).weight
            weight.copy_(rounded(weight.float()) if dtype == torch.float32 else rounded(weight))
    plain = Explainer(twin, IMAGES[:1])
    early = names[1]  # int8 weights lie behind it, through which the gradient passes
    for feature_layer in (layer, early if method == "gradcam" and name != "vit" else layer):
        options: Any = {"method": method, "feature_layer": feature_layer, "channels": 4}
        found = explainer.explain(IMAGES, [[ClassIndex(1)], [ClassIndex(2)]], **options)
        expected = plain.explain(IMAGES, [[ClassIndex(1)], [ClassIndex(2)]], **options)
        for (one,), (other,) in zip(found, expected, strict=True):
            assert one.map.dtype == dtype
            assert difference(one.map, other.map) <= 1e-5
    assert hooks(model) == 0


def test_with_other_weights_by_name() -> None:
    """Randomisation: integers and scales in random order are weights like others."""
    model = randomised(ResNetLike())
    twin = copy.deepcopy(model)
    explainer = Explainer(model, IMAGES[:1], quantization="int8")
    before = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2)
    weights = shuffled_weights(model)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            path, _, leaf = name.rpartition(".")
            kept = f"{path}.parametrizations.{leaf}.original"
            if f"{kept}0" in weights:
                weight.copy_(weights[f"{kept}0"].float() * weights[f"{kept}1"])
            else:
                weight.copy_(weights[name])
    found = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2, weights=weights)
    expected = Explainer(twin, IMAGES[:1]).explain(IMAGES, [[ClassIndex(1)]] * 2)
    after = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2)
    for (one,), (other,), (first,), (last,) in zip(found, expected, before, after, strict=True):
        assert difference(one.map, other.map) <= 1e-5
        assert torch.equal(first.map, last.map)


def test_what_overflows_is_computed_again_from_int8_weights() -> None:
    model, inputs = loud("float16")
    twin = rounded_twin(model, ["features.2"])  # the other has too few numbers
    explainer = Explainer(model, inputs[:1], feature_layer="scaled", quantization="int8")
    assert set(quantized(model)) == {"features.2"}
    expected = Explainer(twin, inputs[:1], feature_layer="scaled").explain(
        inputs, [[ClassIndex(1)]] * 2
    )
    (retried,), (fine,) = explainer.explain(inputs, [[ClassIndex(1)]] * 2, precision="float16")
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert fine.diagnostics == ()
    assert difference(retried.map, expected[0][0].map) <= 1e-6
    assert pearson(fine.map, expected[1][0].map) >= 0.999
    # a model of half-precision weights: its scales are half too
    model, inputs = loud("float16")
    explainer = Explainer(model.half(), inputs[:1], feature_layer="scaled", quantization="int8")
    assert stored(model.features[2])[1].dtype == torch.float16
    wide = Loud("float16")
    wide.load_state_dict(
        {
            **{n: w for n, w in model.state_dict().items() if "parametrizations" not in n},
            "features.2.weight": stored(model.features[2])[0].float()
            * stored(model.features[2])[1].float(),
        }
    )
    half = inputs.half()
    expected = Explainer(wide.eval(), inputs[:1], feature_layer="scaled").explain(
        half.float(), [[ClassIndex(1)]] * 2
    )
    (retried,), _ = explainer.explain(half, [[ClassIndex(1)]] * 2)
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert difference(retried.map, expected[0][0].map) <= 1e-6


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
def test_an_exported_program_and_the_module_alike() -> None:
    model = randomised(ResNetLike())
    program = torch.export.unflatten(torch.export.export(copy.deepcopy(model), (IMAGES[:1],)))
    maps = []
    for network in (model, program):
        explainer = Explainer(network, IMAGES[:1], quantization="int8")
        ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
        maps.append(one.map)
        assert len(quantized(network)) == len(quantized(model))
    assert difference(maps[1], maps[0]) <= 1e-6


def test_a_convolution_without_quantization_is_left_alone() -> None:
    model = randomised(PlainCNN())
    Explainer(model, IMAGES[:1])
    assert quantized(model) == {}
    assert isinstance(model.features[2].weight, nn.Parameter)
