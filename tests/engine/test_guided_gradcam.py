"""Guided Grad-CAM against Captum's, and through every kind of ReLU by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import GuidedGradCam
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import ClassIndex, Diagnostic, Explainer
from camserve.errors import NotExplainable
from tests.engine.curved import Relu
from tests.engine.formulas import GuidedReLU, grown
from tests.engine.networks import ClassTokenViT, DenseNetLike, PlainCNN, ResNetLike, randomised
from tests.engine.truth import difference


def captum_guided(twin: nn.Module, layer: str, x: Tensor, class_index: int) -> Tensor:
    """Captum's, summed over the input's channels. It knows `nn.ReLU` modules out of place only."""
    found = GuidedGradCam(twin, twin.get_submodule(layer)).attribute(
        x.clone().requires_grad_(), class_index, interpolate_mode="bilinear"
    )
    return found[0].sum(0).detach()


class ModuleReLUs(nn.Module):
    """DenseNetLike with modules for ReLUs, the only ones that Captum sees."""

    def __init__(self, network: DenseNetLike) -> None:
        super().__init__()
        self.network = network
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        net = self.network
        x = net.stem(x)
        x = torch.cat([x, self.relu1(net.grow1(x))], 1)
        x = self.relu2(net.norm(net.grow2(x)))
        return net.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.parametrize("layer", ["layer2", "layer1"])
def test_guided_gradcam_is_captums_with_in_place_relus(layer: str) -> None:
    model = randomised(ResNetLike()).double()
    twin = ResNetLike(inplace=False).double().eval()
    twin.load_state_dict(model.state_dict())
    rows = Explainer(model, IMAGES[:1]).explain(
        IMAGES, [[ClassIndex(1)], [ClassIndex(4)]], method="guided-gradcam", feature_layer=layer
    )
    for row, class_index in enumerate((1, 4)):
        expected = captum_guided(twin, layer, IMAGES[row : row + 1], class_index)
        assert expected.shape == (32, 32)
        assert difference(rows[row][0].map, expected) <= 1e-12


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
def test_guided_gradcam_sees_relus_that_are_functions() -> None:
    model = randomised(DenseNetLike()).double()
    twin = ModuleReLUs(copy.deepcopy(model)).eval()
    ((one,),) = Explainer(model, IMAGES[:1]).explain(
        IMAGES[:1], [[ClassIndex(1)]], method="guided-gradcam", feature_layer="stem"
    )
    assert difference(one.map, captum_guided(twin, "network.stem", IMAGES[:1], 1)) <= 1e-12


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
def test_guided_gradcam_of_an_exported_program() -> None:
    """In place, a module, and a function: in the program they are operators alike."""
    model = randomised(ResNetLike()).double()
    twin = ResNetLike(inplace=False).double().eval()
    twin.load_state_dict(model.state_dict())
    program = torch.export.unflatten(torch.export.export(model, (IMAGES[:1],)))
    ((one,),) = Explainer(program, IMAGES[:1]).explain(
        IMAGES[:1], [[ClassIndex(1)]], method="guided-gradcam", feature_layer="layer1"
    )
    assert difference(one.map, captum_guided(twin, "layer1", IMAGES[:1], 1)) <= 1e-12


class Capped(torch.autograd.Function):
    """ReLU6 guided by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 6)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where((x > 0) & (x < 6) & (slope > 0), slope, 0.0)


class Leaky(torch.autograd.Function):
    """A leaky ReLU guided by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.2 * x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, slope, 0.2 * slope).clamp(min=0)


RELUS: dict[str, tuple[Callable[[], nn.Module], Relu]] = {
    "ReLU": (nn.ReLU, GuidedReLU.apply),
    "ReLU, in place": (lambda: nn.ReLU(inplace=True), GuidedReLU.apply),
    "ReLU6": (nn.ReLU6, Capped.apply),
    "ReLU6, in place": (lambda: nn.ReLU6(inplace=True), Capped.apply),
    "F.relu": (lambda: Applied(functional.relu), GuidedReLU.apply),
    "F.relu, in place": (lambda: Applied(functional.relu_), GuidedReLU.apply),
    "F.relu6": (lambda: Applied(functional.relu6), Capped.apply),
    "torch.relu": (lambda: Applied(torch.relu), GuidedReLU.apply),
    "torch.relu_": (lambda: Applied(torch.relu_), GuidedReLU.apply),
    "x.relu()": (lambda: Applied(lambda x: x.relu()), GuidedReLU.apply),
    "x.relu_()": (lambda: Applied(lambda x: x.relu_()), GuidedReLU.apply),
    "threshold": (lambda: nn.Threshold(0.0, 0.0), GuidedReLU.apply),
    "clamp": (lambda: Applied(lambda x: x.clamp(0, 6)), Capped.apply),
    "clamp, from below": (lambda: Applied(lambda x: torch.clamp(x, min=0)), GuidedReLU.apply),
    "clamp, by tensors": (
        lambda: Applied(lambda x: torch.clamp(x, torch.zeros(()).to(x), torch.tensor(6.0).to(x))),
        Capped.apply,
    ),
    "leaky": (lambda: nn.LeakyReLU(0.2), Leaky.apply),
    "leaky, in place": (lambda: nn.LeakyReLU(0.2, inplace=True), Leaky.apply),
}


class Applied(nn.Module):
    def __init__(self, function: Relu) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Activated(nn.Module):
    """Two convolutions with the activation to be chosen behind both."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 6, 3, 2, 1), first
        self.conv2, self.act2 = nn.Conv2d(6, 7, 3, 2, 1), second
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(4 * x))))
        return self.head(x.square().mean((2, 3)))


@pytest.mark.parametrize("kind", RELUS)
def test_guided_gradcam_of_every_kind_of_relu(kind: str) -> None:
    build, guided = RELUS[kind]
    model = randomised(Activated(build(), build())).double()
    by_hand = copy.deepcopy(model)
    by_hand.act1 = by_hand.act2 = Applied(guided)
    x = IMAGES[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(by_hand(x)[0, 1], x)
    explainer = Explainer(model, IMAGES[:1], feature_layer="conv2")
    ((plain,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
    ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], method="guided-gradcam")
    positive = torch.from_numpy(grown(plain.map.clamp(min=0).numpy(), (32, 32)))
    assert positive.any()
    assert difference(one.map, positive * slope[0].sum(0)) <= 1e-12


def test_guided_gradcam_needs_relus() -> None:
    for model in (
        randomised(ClassTokenViT()),
        randomised(Activated(nn.GELU(), nn.Tanh())),
        randomised(Activated(nn.Hardtanh(), Applied(lambda x: torch.clamp(x, -0.5)))),
    ):
        explainer = Explainer(model, torch.zeros(1, 3, 32, 32))
        with pytest.raises(NotExplainable, match="this model has none: use gradcam or layercam"):
            explainer.explain(IMAGES[:1], [[ClassIndex(1)]], method="guided-gradcam")


def test_what_speaks_against_a_class_is_not_called_flat() -> None:
    """The diagnosis is of the map before a ReLU takes it to 0 everywhere."""
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.weight.abs_().neg_()
    explainer = Explainer(model, IMAGES[:1], feature_layer="features")
    ((plain,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
    ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], method="guided-gradcam")
    assert not one.map.any()
    assert one.diagnostics == plain.diagnostics == (Diagnostic.NEGATIVE_ONLY,)


def test_an_infinite_gradient_in_the_input_is_noticed() -> None:
    class Rooted(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sqrt())

    image = IMAGES[:1].abs()
    image[..., 0, 0] = 0
    explainer = Explainer(randomised(Rooted()), torch.ones(1, 3, 32, 32), feature_layer="features")
    ((one,),) = explainer.explain(image, [[ClassIndex(1)]], method="guided-gradcam")
    assert one.diagnostics == (Diagnostic.NONFINITE,)
