"""Every method against its paper's formula, written once more with loops, NumPy and float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import GuidedGradCam
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import Budget, ClassIndex, Explainer, Finer, Reduction, Top
from camserve.errors import InvalidRequest, NotExplainable, OverBudget
from camserve.expressions import parse
from camserve.vocabulary import METHODS, Method
from tests.engine.networks import ClassTokenViT, DenseNetLike, ResNetLike, randomised
from tests.engine.truth import difference

Array = NDArray[np.float64]
Relu = Callable[[Tensor], Tensor]

SIZES = {1: (14,), 2: (10, 8), 3: (6, 4, 6)}
SEEDS = {1: 35, 2: 27, 3: 26}
"""With these, every map below has positions of both signs."""
PRECISIONS = {"f32": (torch.float32, 1e-5), "f64": (torch.float64, 1e-12)}
PERTURBING: tuple[Method, ...] = ("scorecam", "ablationcam")
GRADIENT: tuple[Method, ...] = tuple(
    method for method in METHODS if method not in (*PERTURBING, "guided-gradcam")
)


class Curved(nn.Module):
    """A head whose gradient differs from position to position, and ReLUs of every kind.

    `before` and `after`: the network once more, as plain functions with the ReLU to be chosen.
    """

    def __init__(self, dimensions: int = 2, classes: int = 5) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.stem = conv(3, 4, 3, 1, 1)
        self.features = nn.Sequential(conv(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.tail = conv(6, 7, 3, 1, 1)
        self.head = nn.Linear(7, classes)

    def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
        return relu(self.features[0](relu(self.stem(x))))

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        return self.head(relu(self.tail(features)).square().flatten(2).mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.features(functional.relu(self.stem(x))))


def curved(dimensions: int = 2) -> tuple[Curved, Tensor]:
    """The network and a batch of two inputs, float32."""
    seed = SEEDS[dimensions]
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 3, *SIZES[dimensions], generator=generator)
    return randomised(Curved(dimensions), seed=seed), inputs


class GuidedReLU(torch.autograd.Function):
    """By hand: what comes back passes where the output was positive and it is positive itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.clamp(min=0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.where((output > 0) & (slope > 0), slope, 0.0)


class Known:
    """What the formulas need of one input: float64, by calling the network's two halves."""

    def __init__(self, model: Curved, x: Tensor, class_index: int) -> None:
        self.model = copy.deepcopy(model).double()
        self.x = x.double()
        self.class_index = class_index
        leaf = self.model.before(self.x).detach().requires_grad_()
        self.leaf, self.logits = leaf, self.model.after(leaf)[0]
        self.a = leaf.detach()[0].numpy()
        self.y = float(self.logits[class_index].detach())

    def gradient(self, score: Tensor) -> Array:
        (slope,) = torch.autograd.grad(score, self.leaf, retain_graph=True)
        return slope[0].numpy()

    @property
    def g(self) -> Array:
        return self.gradient(self.logits[self.class_index])

    def score(self, x: Tensor) -> float:
        """A whole forward pass of one input."""
        with torch.no_grad():
            return float(self.model(x)[0, self.class_index])

    def positions(self) -> list[tuple[int, ...]]:
        return list(np.ndindex(self.a.shape[1:]))


def weighted(known: Known, weights: Sequence[float]) -> Array:
    total = np.zeros(known.a.shape[1:])
    for k, weight in enumerate(weights):
        for p in known.positions():
            total[p] += weight * known.a[(k, *p)]
    return total


def gradcam(known: Known, g: Array | None = None) -> Array:
    g = known.g if g is None else g
    count = len(known.positions())
    return weighted(known, [sum(g[(k, *p)] for p in known.positions()) / count for k in range(6)])


def gradcam_plus_plus(known: Known) -> Array:
    g, weights = known.g, []
    for k in range(6):
        total, weight = known.a[k].sum(), 0.0
        for p in known.positions():
            slope = g[(k, *p)]
            if slope > 0:
                weight += slope * slope**2 / (2 * slope**2 + total * slope**3 + 1e-6)
        weights.append(weight)
    return weighted(known, weights)


def hirescam(known: Known) -> Array:
    g = known.g
    return sum((g[k] * known.a[k] for k in range(6)), np.zeros(known.a.shape[1:]))


def xgradcam(known: Known) -> Array:
    g = known.g
    return weighted(
        known, [(g[k] * known.a[k]).sum() / (known.a[k].sum() + 1e-7) for k in range(6)]
    )


def layercam(known: Known) -> Array:
    g, total = known.g, np.zeros(known.a.shape[1:])
    for k, p in itertools.product(range(6), known.positions()):
        total[p] += max(g[(k, *p)], 0.0) * known.a[(k, *p)]
    return total


def principal(features: Array) -> Array:
    """By NumPy's SVD; the sign makes the map rise where the sum of the channels does."""
    table = features.reshape(len(features), -1).T
    centred = table - table.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    projection = centred @ directions[0]
    if np.dot(projection, table.sum(1) - table.sum(1).mean()) < 0:
        projection = -projection
    return projection.reshape(features.shape[1:])


def grown(channel: Array, size: tuple[int, ...]) -> Array:
    """Linear, half-pixel centres, edges repeated: every axis in turn, every sample by itself."""
    for axis, count in enumerate(size):
        lines = np.moveaxis(channel, axis, 0)
        samples = []
        for i in range(count):
            centre = min(max((i + 0.5) * len(lines) / count - 0.5, 0), len(lines) - 1)
            low = int(centre)
            high = min(low + 1, len(lines) - 1)
            samples.append(lines[low] * (1 - centre + low) + lines[high] * (centre - low))
        channel = np.moveaxis(np.stack(samples), 0, axis)
    return channel


def scorecam(known: Known, chosen: Sequence[int] = range(6)) -> Array:
    scores = []
    for k in chosen:
        mask = grown(known.a[k], tuple(known.x.shape[2:]))
        span = mask.max() - mask.min()
        mask = (mask - mask.min()) / span if span > 0 else np.zeros_like(mask)
        scores.append(known.score(known.x * torch.from_numpy(mask)))
    shares = np.exp(np.array(scores) - max(scores))
    weights = np.zeros(6)
    weights[list(chosen)] = shares / shares.sum()
    return weighted(known, list(weights))


def ablationcam(known: Known, chosen: Sequence[int] = range(6)) -> Array:
    weights = np.zeros(6)
    for k in chosen:
        without = known.leaf.detach().clone()
        without[:, k] = 0
        with torch.no_grad():
            score = float(known.model.after(without)[0, known.class_index])
        weights[k] = (known.y - score) / known.y
    return weighted(known, list(weights))


def guided_gradcam(known: Known) -> Array:
    x = known.x.clone().requires_grad_()
    guided = known.model.after(known.model.before(x, GuidedReLU.apply), GuidedReLU.apply)
    (slope,) = torch.autograd.grad(guided[0, known.class_index], x)
    return grown(np.maximum(gradcam(known), 0), tuple(x.shape[2:])) * slope[0].sum(0).numpy()


def finercam(known: Known, comparisons: int = 3, strength: float = 1.0) -> Array:
    others = [c for c in range(len(known.logits)) if c != known.class_index]
    others.sort(key=lambda c: abs(float(known.logits[c].detach()) - known.y))
    maps = [
        gradcam(known, known.gradient(known.logits[known.class_index] - strength * known.logits[d]))
        for d in others[:comparisons]
    ]
    return sum(maps) / len(maps)


TRUTHS: dict[Method, Callable[[Known], Array]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "eigencam": lambda known: principal(known.a),
    "eigengradcam": lambda known: principal(known.a * known.g),
    "scorecam": scorecam,
    "ablationcam": ablationcam,
    "guided-gradcam": guided_gradcam,
    "finercam": finercam,
}


def truth(method: Method, model: Curved, x: Tensor, class_index: int) -> Tensor:
    return torch.from_numpy(TRUTHS[method](Known(model, x, class_index)))


def test_every_method_has_a_truth() -> None:
    assert tuple(TRUTHS) == METHODS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)
def test_two_rows_with_targets_of_their_own(
    method: Method, dimensions: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Row 0 has one target, row 1 three, two of them by `Top`: nothing may mix."""
    model, inputs = curved(dimensions)
    best = model(inputs)[1].topk(2).indices.tolist()
    expected = [
        [truth(method, model, inputs[:1], 1)],
        [truth(method, model, inputs[1:], c) for c in (3, *best)],
    ]
    rows = Explainer(model.to(dtype), inputs[:1], feature_layer="features").explain(
        inputs, [[ClassIndex(1)], [ClassIndex(3), Top(2)]], method=method
    )
    assert [one.class_index for one in rows[1]] == [3, *best]
    for row, truths in zip(rows, expected, strict=True):
        for one, map_by_hand in zip(row, truths, strict=True):
            assert one.map.dtype == dtype
            assert difference(one.map, map_by_hand) <= tolerance


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "eigencam", "eigengradcam"])
def test_features_of_both_signs_that_an_in_place_relu_rewrites(method: Method) -> None:
    model, inputs = curved()

    class BeforeTheReLU(Curved):
        def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
            return self.features[0](relu(self.stem(x)))

        def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
            return super().after(relu(features), relu)

    twin = BeforeTheReLU()
    twin.load_state_dict(model.state_dict())
    assert Known(twin.eval(), inputs[:1], 1).a.min() < 0
    ((one,),) = Explainer(model.double(), inputs[:1]).explain(
        inputs[:1], [[ClassIndex(1)]], method=method, feature_layer="features.0"
    )
    assert difference(one.map, truth(method, twin, inputs[:1], 1)) <= 1e-12


@pytest.mark.parametrize("flipped", [False, True])
def test_eigencam_rises_with_the_sum_of_the_channels(flipped: bool) -> None:
    """Channels that fall along the only direction: a bare SVD would give either sign."""
    ramp = torch.arange(6, dtype=torch.float64).reshape(1, 1, 6)
    model = nn.Sequential(nn.Conv1d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(18, 2)).double()
    weights = torch.tensor([-2.0, 5.0, 1.0] if flipped else [2.0, -5.0, 1.0]).double()
    with torch.no_grad():
        model[0].weight.copy_(weights.reshape(3, 1, 1))
    ((one,),) = Explainer(model, ramp).explain(
        ramp, [[ClassIndex(0)]], method="eigencam", feature_layer="0"
    )
    # all channels are multiples of one ramp: the projection is its length along it
    expected = weights.norm() * (ramp[0, 0] - ramp.mean()) * weights.sum().sign()
    assert difference(one.map, expected) <= 1e-12


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
@pytest.mark.parametrize("length", [3, 4, 9, 11, 12, 13])
def test_eigen_maps_of_more_channels_than_positions_and_of_fewer(
    method: Method, length: int
) -> None:
    """Of (length + 1) / 2 positions: 2 to 7, and 6 channels."""
    model, _ = curved(1)
    inputs = torch.randn(1, 3, length, generator=torch.Generator().manual_seed(length))
    ((one,),) = Explainer(model.double(), inputs, feature_layer="features").explain(
        inputs, [[ClassIndex(1)]], method=method
    )
    assert one.map.shape == ((length + 1) // 2,)
    assert difference(one.map, truth(method, model, inputs, 1)) <= 1e-12


@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_nothing(method: Method, chunk: int) -> None:
    model, inputs = curved()
    sizes: list[int] = []
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    model.tail.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    ((one,),) = explainer.explain(inputs[:1], [[ClassIndex(1)]], method=method, chunk=chunk)
    trial = [2] if method == "ablationcam" else []
    assert sizes == [1, *trial, *{1: [1] * 6, 3: [3, 3], 100: [6]}[chunk]]
    assert difference(one.map, truth(method, model, inputs[:1], 1)) <= 1e-5


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


# Heads that know the number of inputs from before the layer: more rows there will not do.


class ReshapesToOldCount(Curved):
    """An error behind the layer: the linear layer gets one row of m times the width."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        features = self.features(functional.relu(self.stem(x)))
        pooled = functional.relu(self.tail(features)).square().flatten(2).mean(2)
        return self.head(pooled.reshape(rows, -1))


class PoolsToOldCount(Curved):
    """No error: the rows silently become positions, and the scores their mean."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        features = self.features(functional.relu(self.stem(x)))
        pooled = functional.relu(self.tail(features)).square().flatten(2)
        pooled = pooled.transpose(0, 1).reshape(7, rows, -1).transpose(0, 1)
        return self.head(pooled.mean(2))


class ConcatenatesSkip(Curved):
    """A skip from before the layer has one row, and `cat` does not broadcast."""

    def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
        stem = relu(self.stem(x))
        self.skip = functional.max_pool2d(stem, 2)
        return relu(self.features[0](stem))

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        mixed = features[:, 2:] + features[:, :4]
        return super().after(torch.cat([self.skip[:, :2], mixed], 1), relu)

    def forward(self, x: Tensor) -> Tensor:
        stem = functional.relu(self.stem(x))
        self.skip = functional.max_pool2d(stem, 2)
        return self.after(self.features(stem))


class ScalesByOldCount(Curved):
    """No error and as many scores as variants, but other ones."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(functional.relu(self.stem(x)))
        return self.after(features * len(features) / len(x))


@pytest.mark.parametrize(
    "network", [ReshapesToOldCount, PoolsToOldCount, ConcatenatesSkip, ScalesByOldCount]
)
@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("chunk", [1, 4])
def test_heads_that_take_no_more_rows_than_inputs(
    network: type[Curved], method: Method, chunk: int
) -> None:
    _, inputs = curved()
    model = randomised(network(), seed=SEEDS[2])
    expected = [truth(method, model, inputs[:1], 1), truth(method, model, inputs[1:], 3)]
    rows = Explainer(model.double(), inputs[:1], feature_layer="features").explain(
        inputs, [[ClassIndex(1)], [ClassIndex(3)]], method=method, chunk=chunk
    )
    for (one,), map_by_hand in zip(rows, expected, strict=True):
        assert difference(one.map, map_by_hand) <= 1e-12


def test_ablation_runs_the_backbone_once_a_chunk_where_the_head_takes_the_rows() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    rows = {name: [] for name in ("stem", "tail")}
    for name, seen in rows.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(len(args[0]))
        )
    explainer.explain(inputs[:1], [[ClassIndex(1)]], method="ablationcam", chunk=4)
    assert rows["stem"] == [1, 1, 1, 1]  # the inputs, the trial, six channels in two chunks
    assert rows["tail"] == [1, 2, 4, 2]


class SharedTwice(Curved):
    """`features` runs on the mirrored input first: its last call counts."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.features(functional.relu(self.stem(x.flip(-1))))
        second = self.features(functional.relu(self.stem(x)))
        return self.after(second) + 0.1 * self.after(first)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided-gradcam"])
def test_of_a_layer_that_runs_twice_the_last_call_counts(method: Method) -> None:
    model = randomised(SharedTwice(), seed=SEEDS[2])
    inputs = curved()[1][:1]

    class LastCall(Curved):
        def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
            self.first = super().before(x.flip(-1), relu).detach()
            return super().before(x, relu)

        def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
            return super().after(features, relu) + 0.1 * super().after(self.first, relu)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.before(x))

    twin = LastCall()
    twin.load_state_dict(model.state_dict())
    expected = truth(method, twin.eval(), inputs, 1)
    ((one,),) = Explainer(model.double(), inputs, feature_layer="features").explain(
        inputs, [[ClassIndex(1)]], method=method
    )
    assert difference(one.map, expected) <= 1e-12


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


class OverTheBatch(Curved):
    """Normalises over the batch: a stranger beside an input changes its scores."""

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        spread = features - features.mean((0, 2, 3), keepdim=True)
        return super().after(features + spread / 3, relu)


class OneInputOnly(Curved):
    """As a program that was exported for a batch of one."""

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        if len(features) != 1:
            raise ValueError("one input only")
        return super().after(features, relu)


@pytest.mark.parametrize("network", [OverTheBatch, OneInputOnly])
@pytest.mark.parametrize("method", PERTURBING)
def test_variants_run_one_by_one_where_rows_are_not_independent(
    network: type[Curved], method: Method
) -> None:
    inputs = curved()[1][:1]
    model = randomised(network(), seed=SEEDS[2])
    expected = truth(method, model, inputs, 1)
    ((one,),) = Explainer(model.double(), inputs, feature_layer="features").explain(
        inputs, [[ClassIndex(1)]], method=method, chunk=100
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


@pytest.mark.parametrize("method", METHODS)
def test_a_row_without_targets_costs_nothing(method: Method) -> None:
    model, inputs = curved()
    budget = Budget()
    nothing, (one,) = Explainer(model, inputs[:1], feature_layer="features").explain(
        inputs, [[], [ClassIndex(3)]], method=method, budget=budget
    )
    assert nothing == []
    assert difference(one.map, truth(method, model, inputs[1:], 3)) <= 1e-5
    if method == "scorecam":
        assert budget.spent == 2 + 6


# Several layers


class Branches(nn.Module):
    """Two layers beside each other, and one behind the other inside a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.left = nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(11, 7, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(7, 8, 3, 1, 1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = functional.relu(self.stem(x))
        both = torch.cat([self.left(stem), self.right(stem)], 1)
        return self.head(functional.relu(self.body(both)).square().mean((2, 3)))


SEVERAL = {
    "one behind the other": ("stem", "left", "body"),
    "late first": ("body", "right", "stem"),
    "beside each other": ("left", "right"),
    "inside another": ("body", "body.0", "body.1"),
    "inside another, late first": ("body.1", "body.2", "body"),
    "the same twice": ("left", "left"),
    "the same twice, in place": ("body.0", "body.1", "body.1"),
}


@pytest.mark.parametrize("layers", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("method", METHODS)
def test_several_layers_at_once_have_the_maps_that_each_has_alone(
    layers: tuple[str, ...], method: Method
) -> None:
    inputs = curved()[1]
    explainer = Explainer(randomised(Branches()).double(), inputs[:1])
    targets = [[ClassIndex(1)], [ClassIndex(3), ClassIndex(0)]]
    together = explainer.explain(inputs, targets, method=method, feature_layer=layers)
    for place, layer in enumerate(layers):
        alone = explainer.explain(inputs, targets, method=method, feature_layer=layer)
        for got, expected in zip(together, alone, strict=True):
            for one, other in zip(got, expected, strict=True):
                assert len(one.maps) == len(layers)
                gap = (one.maps[place] - other.map).abs().max()
                assert gap <= 1e-12 * other.map.abs().max()  # a guided map may be all 0


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_several_layers_of_which_one_returns_a_tuple(method: Method) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.conv(x)
            return y.mean((2, 3)), y.tanh(), y.sigmoid()

    class Network(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.left = Pair()
            self.body[0] = nn.Conv2d(12, 7, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            pooled, first, second = self.left(functional.relu(self.stem(x)))
            features = self.body(torch.cat([first, second], 1))
            return self.head(features.relu().square().mean((2, 3))) + pooled.mean(1, keepdim=True)

    inputs = curved()[1][:1]
    explainer = Explainer(randomised(Network()).double(), inputs)
    layers = ["body.0", "left:2", "left", "left:1"]
    targets = [[ClassIndex(1)]]
    ((one,),) = explainer.explain(inputs, targets, method=method, feature_layer=layers)
    for place, layer in enumerate(layers):
        ((alone,),) = explainer.explain(inputs, targets, method=method, feature_layer=layer)
        assert difference(one.maps[place], alone.map) <= 1e-12
    assert difference(one.maps[3], one.maps[2]) <= 1e-12  # the first tensor with space
    assert difference(one.maps[1], one.maps[2]) > 0.01


def test_layers_beside_each_other_by_hand() -> None:
    inputs = curved()[1][:1].double()
    model = randomised(Branches()).double()
    stem = functional.relu(model.stem(inputs)).detach()
    left, right = (branch(stem).detach().requires_grad_() for branch in (model.left, model.right))
    out = model.head(functional.relu(model.body(torch.cat([left, right], 1))).square().mean((2, 3)))
    slopes = torch.autograd.grad(out[0, 1], [left, right])
    ((one,),) = Explainer(model, inputs).explain(
        inputs, [[ClassIndex(1)]], feature_layer=["left", "right"]
    )
    for found, features, slope in zip(one.maps, (left, right), slopes, strict=True):
        expected = (slope.mean((2, 3), keepdim=True) * features).sum(1)[0].detach()
        assert difference(found, expected) <= 1e-12


# Budget


@pytest.mark.parametrize("method", PERTURBING)
def test_too_many_passes_are_refused_before_the_first_variant(method: Method) -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda _m, args: forwards.append(len(args[0])))
    needed = 2 + 2 * (6 if method == "scorecam" else 6 + 2)
    targets = [[ClassIndex(1)]] * 2
    with pytest.raises(OverBudget, match=f"{needed} forward passes are needed") as caught:
        explainer.explain(inputs, targets, method=method, budget=Budget(passes=needed - 1))
    assert caught.value.extensions == {"needed": needed, "limit": needed - 1}
    assert forwards == [2]
    budget = Budget(passes=needed)
    explainer.explain(inputs, targets, method=method, budget=budget)
    assert budget.spent == needed
    # with fewer channels it fits, and two layers cost twice as much
    fewer = Budget(passes=needed)
    layers = ["features", "features.0"]
    options: Any = {"method": method, "feature_layer": layers, "channels": 2}
    explainer.explain(inputs, targets, budget=fewer, **options)
    assert fewer.spent == 2 + 2 * 2 * (2 if method == "scorecam" else 4)


def test_passes_of_the_other_methods() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    for method in METHODS:
        if method not in PERTURBING:
            budget = Budget()
            explainer.explain(inputs, [[ClassIndex(1)]] * 2, method=method, budget=budget)
            assert budget.spent == (4 if method == "guided-gradcam" else 2)


def test_time_that_is_up_stops_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    forwards: list[int] = []  # each takes a second
    model.register_forward_pre_hook(lambda _m, args: forwards.append(len(args[0])))
    clock = SimpleNamespace(monotonic=lambda: 100.0 + len(forwards))
    monkeypatch.setattr("camserve.engine.budget.time", clock)
    budget = Budget(seconds=2)
    with pytest.raises(OverBudget, match="longer than the 2 s") as caught:
        explainer.explain(inputs[:1], [[ClassIndex(1)]], method="scorecam", budget=budget, chunk=2)
    # the input and two chunks of two channels; the third is not begun
    assert forwards == [1, 2, 2]
    assert caught.value.extensions == {"limit_s": 2, "done": 5}
    assert budget.spent == 5


# Finer-CAM


@pytest.mark.parametrize("comparisons", [1, 2, 4, 99])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_finercam_is_the_mean_of_differences(comparisons: int, strength: float) -> None:
    model, inputs = curved()
    known = Known(model, inputs[:1], 1)
    expected = torch.from_numpy(finercam(known, comparisons, strength))
    explainer = Explainer(model.double(), inputs[:1], feature_layer="features")
    ((one,),) = explainer.explain(
        inputs[:1],
        [[ClassIndex(1)]],
        method="finercam",
        finer=Finer(comparisons=comparisons, strength=strength),
    )
    assert difference(one.map, expected) <= 1e-12
    if strength == 0:
        assert difference(one.map, torch.from_numpy(gradcam(known))) <= 1e-12
        assert one.score == pytest.approx(known.y, rel=1e-12)


def test_finercam_needs_classes() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    for target in (Reduction("norm"), Reduction("class_score", class_index=1), parse("x[1]")):
        with pytest.raises(InvalidRequest, match="it takes class_index, class_label or top"):
            explainer.explain(inputs[:1], [[target]], method="finercam")
    alone = Explainer(randomised(Curved(classes=1)), inputs[:1], feature_layer="features")
    with pytest.raises(InvalidRequest, match="finercam needs another class"):
        alone.explain(inputs[:1], [[ClassIndex(0)]], method="finercam")


# Guided Grad-CAM


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
