"""Weights as int8 up to the feature layer: which modules, what is kept, and the head untouched."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from camserve.engine.quantization import quantize_weights
from tests.engine.int8 import nbytes, quantized, rounded, rounded_twin, stored
from tests.engine.networks import PlainCNN, ResNetLike, randomised
from tests.engine.truth import difference

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))


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


def test_a_convolution_without_quantization_is_left_alone() -> None:
    model = randomised(PlainCNN())
    Explainer(model, IMAGES[:1])
    assert quantized(model) == {}
    assert isinstance(model.features[2].weight, nn.Parameter)
