"""A network run in two parts explains as the undivided one does, without touching its modules."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Reduction, Top
from camserve.engine.execution.compiling import save_program
from camserve.engine.execution.tracing import NotSplittable
from camserve.vocabulary import Method
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
from tests.engine.truth import difference, hand_map

NETWORKS = {
    "residual, in place": (ResNetLike, (3, 32, 32)),
    "dense": (DenseNetLike, (3, 32, 32)),
    "inverted residual": (MobileNetLike, (3, 32, 32)),
    "class token": (ClassTokenViT, (3, 32, 32)),
    "flattened": (VGGLike, (3, 32, 32)),
    "skips past the boundary": (UNet, (3, 32, 32)),
    "volume": (VolumeCNN, (3, 12, 12, 12)),
    "sequence": (TemporalCNN, (3, 24)),
}


POOLED = {"residual, in place", "inverted residual", "sequence"}


class Calls:
    """Counts the forward passes through the model's own modules."""

    def __init__(self, explainer: Explainer) -> None:
        self.count = 0
        explainer.model.register_forward_pre_hook(self._more)

    def _more(self, *_: object) -> None:
        self.count += 1


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_maps_scores_and_predictions_are_those_of_the_undivided_network(
    name: str, count: int
) -> None:
    make, shape = NETWORKS[name]
    whole = Explainer(randomised(make()), torch.zeros(1, *shape))
    parts = Explainer(randomised(make()), torch.zeros(1, *shape))
    pools = parts.split().split.pooling is not None
    assert pools == (name in POOLED)
    calls = Calls(parts)
    inputs = noise(count, *shape)
    target = Reduction("segmentation", class_index=1, region="all") if make is UNet else Top(2)
    expected = whole.explain(inputs, [[target]] * count)
    found = parts.explain(inputs, [[target]] * count)
    for mine, other in zip(found, expected, strict=True):
        for one, known in zip(mine, other, strict=True):
            if pools:  # a mean of equal numbers is rounded, and one of them is not
                assert difference(one.map, known.map) < 1e-6
            else:
                assert torch.equal(one.map, known.map)
            assert (one.score, one.class_index) == (known.score, known.class_index)
    for one, known in zip(parts.predict(inputs), whole.predict(inputs), strict=True):
        assert torch.equal(one.output, known.output)
    assert calls.count == 0
    assert hooks(parts.model) == 1  # ours


def test_the_map_is_that_of_the_value_returned_although_the_head_writes_to_it() -> None:
    model = randomised(VGGLike())
    explainer = Explainer(model, torch.zeros(1, 3, 32, 32), feature_layer="features.3")
    execution = explainer.split()
    assert execution.split.writes
    inputs = noise(1, 3, 32, 32)
    [[found]] = explainer.explain(inputs, [[ClassIndex(2)]])
    expected = hand_map(model, "features.3", inputs, lambda output: output[2])
    assert difference(found.map, expected) < 1e-5


@pytest.mark.parametrize(
    "asked",
    [
        {"feature_layer": "stage1"},
        {"method": "ablationcam"},
        {"method": "guided-gradcam"},
        {"weights": {"head.bias": torch.full((5,), 7.0)}},
    ],
    ids=["another layer", "ablation", "guided", "other weights"],
)
def test_what_needs_the_modules_runs_through_them(asked: dict[str, object]) -> None:
    whole, parts = (
        Explainer(randomised(ResNetLike(5)), torch.zeros(1, 3, 32, 32)) for _ in range(2)
    )
    layers = [layer.name for layer in whole.report.layers]
    if "feature_layer" in asked:
        asked = {"feature_layer": next(n for n in layers if n != whole.report.feature_layer)}
    if "weights" in asked:
        name, bias = list(whole.model.named_parameters())[-1]
        asked = {"weights": {name: torch.full_like(bias, 7.0)}}
    parts.split()
    calls = Calls(parts)
    inputs = noise(2, 3, 32, 32)
    expected = whole.explain(inputs, [[ClassIndex(1)]] * 2, **asked)  # type: ignore[arg-type]
    found = parts.explain(inputs, [[ClassIndex(1)]] * 2, **asked)  # type: ignore[arg-type]
    assert calls.count > 0
    for [one], [known] in zip(found, expected, strict=True):
        assert torch.equal(one.map, known.map)
        assert one.score == known.score


def test_inputs_of_another_size_run_through_the_modules() -> None:
    explainer = Explainer(randomised(ResNetLike()), torch.zeros(1, 3, 32, 32))
    explainer.split()
    calls = Calls(explainer)
    inputs = noise(1, 3, 48, 40)
    [[found]] = explainer.explain(inputs, [[Top(1)]])
    [[expected]] = explainer.with_execution(None).explain(inputs, [[Top(1)]])
    assert torch.equal(found.map, expected.map)
    assert calls.count == 2


def test_half_precision_ends_at_the_boundary() -> None:
    explainer = Explainer(randomised(UNet()), torch.zeros(1, 3, 32, 32))
    explainer.split()
    target = Reduction("segmentation", class_index=1, region="all")
    inputs = noise(2, 3, 32, 32)
    found = explainer.explain(inputs, [[target]] * 2, precision="bfloat16")
    whole = explainer.with_execution(None)
    expected = whole.explain(inputs, [[target]] * 2, precision="bfloat16")
    for [one], [known] in zip(found, expected, strict=True):
        assert one.map.dtype == torch.float32
        assert difference(one.map, known.map) < 1e-5


class Averaging(PlainCNN):
    """The head begins with a mean over space."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((-1, -2)))


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "hirescam", "xgradcam", "layercam"])
def test_a_gradient_that_is_the_same_everywhere_is_held_once(method: Method) -> None:
    """Of a pooled linear head the map is CAM / |S| by `gradcam`, and all methods have a gradient of
    w / |S|."""
    explainer = Explainer(randomised(Averaging()), torch.zeros(1, 3, 32, 32))
    assert explainer.split().split.pooling is not None
    inputs = noise(2, 3, 32, 32)
    targets = [[ClassIndex(k) for k in range(5)]] * 2
    found = explainer.explain(inputs, targets, method=method)
    whole = explainer.with_execution(None).explain(inputs, targets, method=method)
    for mine, other in zip(found, whole, strict=True):
        for one, known in zip(mine, other, strict=True):
            assert difference(one.map, known.map) < 1e-5
    if method == "gradcam":
        model = explainer.model
        features = model.get_submodule("features")(inputs).double()
        weights = model.get_submodule("head").weight.double()
        cams = torch.einsum("kc,nchw->nkhw", weights, features) / 64
        for row, cam in zip(found, cams, strict=True):
            for one, expected in zip(row, cam, strict=True):
                assert difference(one.map, expected) < 1e-5


class Repeated(nn.Module):
    """Its feature layer runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.shared = nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        once = self.shared(self.first(x)).tanh()
        return self.head(self.shared(once).mean((2, 3)))


class Branching(PlainCNN):
    """What it does depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if bool((x.detach().abs().sum() > 0).item()) else -x)


class Counting(PlainCNN):
    """`len(x)` is a plain number, and so fixes how many inputs there are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(len(x), *x.shape[1:]))


class Mixing(PlainCNN):
    """Every input's output depends on the others."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class _Tripled(torch.autograd.Function):
    """As itself, with another gradient than its own."""

    @staticmethod
    def forward(_context: object, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(_context: object, *gradients: Tensor) -> Tensor:
        return 3 * gradients[0]


class OwnGradient(PlainCNN):
    """What is differentiated is not what is computed."""

    def forward(self, x: Tensor) -> Tensor:
        tripled: Tensor = _Tripled.apply(self.features(x))
        return self.head(tripled.flatten(2).mean(2))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Repeated(), "runs 2 times"),
        (Branching(), "torch.export"),
        (Counting(), "number of inputs"),
        (OwnGradient(), "other maps"),
        (Mixing(), "mixes its inputs"),
        (PlainCNN().half(), "float16"),
    ],
    ids=["repeated", "branching", "counting", "own gradient", "mixing", "half"],
)
def test_what_cannot_be_divided_says_why_and_goes_on(model: nn.Module, reason: str) -> None:
    layer = "shared" if isinstance(model, Repeated) else None
    explainer = Explainer(randomised(model), torch.zeros(1, 3, 16, 16), feature_layer=layer)
    inputs = noise(1, 3, 16, 16)
    [[before]] = explainer.explain(inputs, [[Top(1)]])
    with pytest.raises(NotSplittable, match=reason):
        explainer.split()
    assert not explainer.is_split
    [[after]] = explainer.explain(inputs, [[Top(1)]])
    assert torch.equal(before.map, after.map)
    assert hooks(model) == 0


def test_what_computes_meanwhile_is_not_disturbed_by_tracing(tmp_path: Path) -> None:
    """torch's tracer patches the modules of all threads, and the weights of what it traces."""
    first = Explainer(randomised(ResNetLike()), torch.zeros(1, 3, 32, 32))
    split = first.split().split
    inputs, targets = noise(1, 3, 32, 32), [[ClassIndex(1)]]
    [[expected]] = first.explain(inputs, targets)
    undivided = first.with_execution(None)
    stop = threading.Event()

    def explain() -> int:
        count = 0
        while not stop.is_set():
            for explainer in (first, undivided):
                [[found]] = explainer.explain(inputs, targets)
                assert difference(found.map, expected.map) < 1e-5
            count += 1
        return count

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(explain)
        try:
            for _ in range(3):
                other = Explainer(randomised(MobileNetLike()), torch.zeros(1, 3, 32, 32))
                other.split()
                save_program(tmp_path / "program.pt2", split, 0, "float32")
        finally:
            stop.set()
        assert running.result() > 0
