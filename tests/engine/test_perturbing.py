"""Score-CAM and Ablation-CAM: which channels are tried, and how each is masked or taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import Budget, ClassIndex, Diagnostic, Explainer
from camserve.engine.methods.perturbation import upsample
from camserve.expressions import parse
from camserve.vocabulary import Method
from tests.engine.curved import SEEDS, Curved, curved
from tests.engine.formulas import PERTURBING, Known, ablationcam, grown, scorecam, truth
from tests.engine.networks import ClassTokenViT, PlainCNN, randomised
from tests.engine.truth import difference


@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_only_the_most_varied_channels(method: Method, count: int) -> None:
    model, inputs = curved()
    with torch.no_grad():  # the largest of all, and nearly flat
        model.features[0].weight[2] *= 0.01
        model.features[0].bias[2] = 20
    known = Known(model, inputs[:1], 1)
    spread = [float(np.square(channel - channel.mean()).mean()) for channel in known.a]
    chosen = sorted(range(6), key=lambda k: -spread[k])[:count]
    by_hand = (scorecam if method == "scorecam" else ablationcam)(known, chosen)
    budget = Budget()
    ((one,),) = Explainer(model.double(), inputs[:1], feature_layer="features").explain(
        inputs[:1], [[ClassIndex(1)]], method=method, channels=count, budget=budget
    )
    assert difference(one.map, torch.from_numpy(by_hand)) <= 1e-12


def test_a_constant_channel_masks_everything() -> None:
    model, inputs = curved()
    with torch.no_grad():
        model.features[0].weight[2] = 0
        model.features[0].bias[2] = 1.5  # a constant that is not 0
        model.features[0].weight[4] = 0
        model.features[0].bias[4] = -1.0  # dead
    ((one,),) = Explainer(model, inputs[:1], feature_layer="features").explain(
        inputs[:1], [[ClassIndex(1)]], method="scorecam"
    )
    assert difference(one.map, truth("scorecam", model, inputs[:1], 1)) <= 1e-5


@pytest.mark.parametrize("method", PERTURBING)
def test_a_shared_relu_of_other_channel_counts(method: Method) -> None:
    """As in torchvision's ResNets: the block's one ReLU sees 4 channels, then 6."""

    class OneReLU(Curved):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.relu(self.features[0](self.relu(self.stem(x)))))

    inputs = curved()[1][:1]
    model = randomised(OneReLU(), seed=SEEDS[2])
    expected = truth(method, model, inputs, 1)
    ((one,),) = Explainer(model.double(), inputs, feature_layer="relu").explain(
        inputs, [[ClassIndex(1)]], method=method
    )
    assert difference(one.map, expected) <= 1e-12


def test_channels_last_inputs_are_masked_in_their_places() -> None:
    class ChannelsLast(Curved):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 3, 1, 2))

    inputs = curved()[1][:1]
    model = randomised(ChannelsLast(), seed=SEEDS[2])
    expected = truth("scorecam", curved()[0], inputs, 1)
    turned = inputs.permute(0, 2, 3, 1)
    explainer = Explainer(model.double(), turned, input_format="BSSC", feature_layer="features")
    ((one,),) = explainer.explain(turned, [[ClassIndex(1)]], method="scorecam")
    assert difference(one.map, expected) <= 1e-12


class FramesInTheBatch(nn.Module):
    """Videos (B, T, C, H, W), frame by frame, and then a mean over the time that `rows` knows."""

    def __init__(self, *, known: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(inplace=True))
        self.tail = nn.Conv2d(5, 6, 3, 1, 1)
        self.head = nn.Linear(6, 4)
        self.known = known

    def forward(self, x: Tensor) -> Tensor:
        frames = self.tail(self.features(x.flatten(0, 1))).relu().mean((2, 3))
        rows = len(x) if self.known else len(frames) // 3
        return self.head(frames.reshape(rows, 3, -1).square().mean(1))


def of_tokens(features: Tensor) -> Tensor:
    """(1, 1 + 16, K) to (K, 4, 4), a view."""
    return features[0, 1:].T.unflatten(1, (4, 4))


def of_frames(features: Tensor) -> Tensor:
    """(3 frames, K, h, w) to (K, 3, h, w), a view."""
    return features.transpose(0, 1)


LAYOUTS: dict[str, tuple[Any, str, tuple[int, ...], str, Callable[[Tensor], Tensor]]] = {
    "tokens": (ClassTokenViT, "blocks.2.norm1", (1, 3, 32, 32), "BCSS", of_tokens),
    "tokens, early": (ClassTokenViT, "blocks.0", (1, 3, 32, 32), "BCSS", of_tokens),
    "frames": (
        lambda: FramesInTheBatch(known=False),
        "features",
        (1, 3, 3, 8, 12),
        "BTCSS",
        of_frames,
    ),
    "frames of a known number": (
        lambda: FramesInTheBatch(known=True),
        "features",
        (1, 3, 3, 8, 12),
        "BTCSS",
        of_frames,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("chunk", [1, 4])
def test_perturbing_tokens_and_frames(layout: str, method: Method, chunk: int) -> None:
    """By a hook on the layer, one channel after the other, and one masked input after the other."""
    build, layer, shape, labels, maps = LAYOUTS[layout]
    model = randomised(build()).double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept: list[Tensor] = []

    def run(inputs: Tensor, without: int | None = None) -> float:
        def change(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            kept.append(output.clone())
            if without is not None:
                maps(changed)[without] = 0
            return changed

        handle = model.get_submodule(layer).register_forward_hook(change)
        with torch.no_grad():
            score = float(model(inputs)[0, 1])
        handle.remove()
        return score

    y = run(x)
    features = maps(kept[0]).numpy()
    size = tuple(n for n, letter in zip(shape, labels, strict=True) if letter in "ST")
    scores = []
    for k, channel in enumerate(features):
        if method == "ablationcam":
            scores.append((y - run(x, without=k)) / y)
        else:
            mask = grown(channel, size)
            mask = (mask - mask.min()) / ((mask.max() - mask.min()) or 1)
            placed = torch.from_numpy(mask)
            scores.append(run(x * (placed[:, None] if labels == "BTCSS" else placed)))
    weights = np.array(scores)
    if method == "scorecam":
        weights = np.exp(weights - weights.max()) / np.exp(weights - weights.max()).sum()
    expected = sum(w * channel for w, channel in zip(weights, features, strict=True))
    explainer = Explainer(model, x, input_format=labels, feature_layer=layer)
    ((one,),) = explainer.explain(x, [[ClassIndex(1)]], method=method, chunk=chunk)
    assert difference(one.map, torch.from_numpy(expected)) <= 1e-12


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_ablationcam_of_a_negative_score_is_not_turned_over(scale: float) -> None:
    """All evidence for a class stays evidence for it, and all against it against it."""
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.weight.abs_().mul_(scale)
        model.head.bias.zero_()
    image = torch.rand(1, 3, 32, 32)
    explainer = Explainer(model, image, feature_layer="features")
    found = [
        explainer.explain(image, [[ClassIndex(1)]], method=method)[0][0]
        for method in ("gradcam", "ablationcam")
    ]
    assert found[0].score * scale > 0
    for one in found:
        assert bool((one.map * scale >= 0).all())
        assert (Diagnostic.NEGATIVE_ONLY in one.diagnostics) == (scale < 0)


def test_ablationcam_of_a_score_of_zero_is_finite() -> None:
    """Its falls are taken as they are."""
    model = randomised(PlainCNN())
    image = torch.rand(1, 3, 32, 32)
    explainer = Explainer(model, image, feature_layer="features")
    ((one,),) = explainer.explain(image, [[parse("x[1] - x[1]")]], method="ablationcam")
    assert one.score == 0
    assert not one.map.any()


def test_masks_of_a_video_with_three_axes_of_space() -> None:
    """torch has no up-sampling for so many axes: here three together, then the fourth."""
    maps = torch.randn(2, 2, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    volumes = functional.interpolate(
        maps.movedim(-1, 1).flatten(0, 1)[:, None], (4, 6, 5), mode="trilinear"
    )
    lines = volumes.reshape(2, 3, 4 * 6 * 5).transpose(1, 2)
    expected = functional.interpolate(lines, 7, mode="linear").reshape(2, 4, 6, 5, 7)
    assert difference(upsample(maps, (4, 6, 5, 7)), expected) <= 1e-6
