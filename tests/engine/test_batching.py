"""Many inputs and many targets in one forward pass, each as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import camserve.engine.attributions as attributions_module
from camserve.engine import Attribution, ClassIndex, Explainer, Reduction, Target, Top
from camserve.vocabulary import METHODS, Method
from tests.engine.networks import ClassTokenViT, MobileNetLike, PlainCNN, ResNetLike, randomised
from tests.engine.truth import difference, hand_map

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def count_forwards(model: nn.Module) -> list[int]:
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    return sizes


@pytest.mark.parametrize("network", [ResNetLike, MobileNetLike, ClassTokenViT])
def test_neighbours_do_not_matter(network: Any) -> None:
    explainer = Explainer(randomised(network()), IMAGES[:1])
    loud = torch.cat([IMAGES[:1], 50 * IMAGES[1:]])
    together = explainer.explain(loud, [[ClassIndex(row)] for row in range(4)])
    [[alone]] = explainer.explain(IMAGES[:1], [[ClassIndex(0)]])
    assert difference(together[0][0].map, alone.map) <= 1e-6
    assert together[0][0].score == pytest.approx(alone.score, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [ResNetLike, MobileNetLike])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_do_not_matter_whatever_the_method(
    network: Any, method: Method, dtype: torch.dtype
) -> None:
    """A row beside loud and broken strangers, in the middle and at the end of the batch.

    Kernels for other batch sizes round otherwise; what is a difference of nearly equal scores shows
    it in float32, and in float64 that it is no more than that.
    """
    tolerance = 1e-12
    if dtype == torch.float32:
        tolerance = 1e-5 if method in ("ablationcam", "finercam") else 1e-6
    explainer = Explainer(randomised(network()).to(dtype), IMAGES[:1])
    strangers = torch.stack([50 * IMAGES[1], torch.full_like(IMAGES[1], torch.nan)])
    [[alone]] = explainer.explain(IMAGES[:1], [[ClassIndex(2)]], method=method)
    for row in (1, 2):
        batch = torch.cat([strangers[:row], IMAGES[:1], strangers[row:]])
        targets: list[list[Target]] = [[Top(2), ClassIndex(1)], [ClassIndex(0)], [Top(1)]]
        targets[row] = [ClassIndex(2)]
        together = explainer.explain(batch, targets, method=method)
        assert difference(together[row][0].map, alone.map) <= tolerance
        assert together[row][0].diagnostics == alone.diagnostics


def test_mixed_targets_and_counts_share_one_forward() -> None:
    model = randomised(MobileNetLike())
    explainer = Explainer(model, IMAGES[:1])
    forwards = count_forwards(model)
    targets: list[list[Target]] = [
        [ClassIndex(3)],
        [Reduction("entropy"), ClassIndex(0), Top(2), Reduction("norm")],
        [],
        [Reduction("class_margin", class_index=1), ClassIndex(4)],
    ]
    rows = explainer.explain(IMAGES, targets)
    assert forwards == [4]
    assert [len(row) for row in rows] == [1, 5, 0, 2]
    for row, attributions in enumerate(rows):
        if targets[row]:
            [alone] = explainer.explain(IMAGES[row : row + 1], [targets[row]])
            for got, expected in zip(attributions, alone, strict=True):
                assert difference(got.map, expected.map) <= 1e-5
                assert got.score == pytest.approx(expected.score, rel=1e-5)
                assert got.class_index == expected.class_index
    truth = hand_map(model, "project", IMAGES[3:4], lambda row: row[4])
    assert difference(rows[3][1].map, truth) <= 1e-5


def test_no_targets_need_no_forward() -> None:
    model = randomised(PlainCNN())
    explainer = Explainer(model, IMAGES[:1])
    forwards = count_forwards(model)
    assert explainer.explain(IMAGES, [[]] * 4) == [[]] * 4
    assert forwards == []


def test_top_expands_in_place_best_first() -> None:
    model = randomised(ResNetLike())
    with torch.no_grad():
        best = model(IMAGES).argsort(1, descending=True).tolist()
    rows = Explainer(model, IMAGES[:1]).explain(IMAGES, [[ClassIndex(0), Top(5)]] * 4)
    for attributions, order in zip(rows, best, strict=True):
        assert [a.class_index for a in attributions] == [0, *order]
        scores = [a.score for a in attributions[1:]]
        assert scores == sorted(scores, reverse=True)


def maps(row: list[Attribution]) -> Tensor:
    return torch.stack([attribution.map for attribution in row])


class _Cube(torch.autograd.Function):
    """x ** 3 with a backward that vmap cannot take (no `generate_vmap_rule`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope.flatten()[0].item()  # data-dependent: refused under vmap
        return 3 * x**2 * slope


class _PlainCube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


class _CustomCube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Cube.apply(x)


@pytest.mark.parametrize("targets", [[Top(5)], [ClassIndex(2)]])
def test_loop_where_vmap_is_not_possible(targets: list[Target]) -> None:
    def build(cube: nn.Module) -> nn.Module:
        return randomised(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), cube, nn.Flatten(), nn.Linear(2048, 5)
            )
        )

    [custom] = Explainer(build(_CustomCube()), IMAGES[:1]).explain(
        IMAGES[:1], [targets], feature_layer="1"
    )
    plain_model = build(_PlainCube())
    [plain] = Explainer(plain_model, IMAGES[:1]).explain(IMAGES[:1], [targets], feature_layer="1")
    assert difference(maps(custom), maps(plain)) <= 1e-6
    truth = hand_map(plain_model, "1", IMAGES[:1], lambda row: row[custom[0].class_index or 0])
    assert difference(custom[0].map, truth) <= 1e-5


def test_targets_take_turns_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGES[:1])
    at_once = explainer.explain(IMAGES, [[Top(5)]] * 4)
    monkeypatch.setattr(attributions_module, "MOST_GRADIENT_VALUES", 2 * 4 * 16 * 16)
    in_turns = explainer.explain(IMAGES, [[Top(5)]] * 4)
    for a, b in zip(at_once, in_turns, strict=True):
        assert difference(maps(b), maps(a)) <= 1e-6


def test_last_call_of_a_shared_module_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)
            self.shared = nn.Conv2d(8, 8, 3, 1, 1)
            self.again = self.shared  # a second name for it
            self.head = nn.Linear(8, 5)

        def after(self, x: Tensor) -> Tensor:
            return self.head(x.square().mean((2, 3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.again(self.shared(self.stem(x)).relu()))

    model = randomised(Twice())
    explainer = Explainer(model, IMAGES[:1])
    with torch.no_grad():
        last = model.shared(model.shared(model.stem(IMAGES[:1])).relu())
    leaf = last.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.after(leaf)[0, 1], leaf)
    expected = (slope.mean((2, 3), keepdim=True) * last).sum(1)[0]
    for name in ("shared", "again"):
        [[attribution]] = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], feature_layer=name)
        assert difference(attribution.map, expected) <= 1e-5


def test_layers_that_return_containers() -> None:
    class Container(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)
            self.kind = kind

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            pooled = y.mean((2, 3))
            return {
                "tuple": (torch.arange(3), pooled, y),  # indices, channels, and then the map
                "list": [y, [pooled]],
                "dict": {"pooled": pooled, "features": y},
            }[self.kind]

    class Network(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.body = Container(kind)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            out = self.body(x)
            y = {"tuple": lambda: out[2], "list": lambda: out[0], "dict": lambda: out["features"]}
            return {"loss": torch.zeros(()), "logits": self.head(y[self.body.kind]().mean((2, 3)))}

    for kind in ("tuple", "list", "dict"):
        model = randomised(Network(kind))
        explainer = Explainer(model, IMAGES[:1])
        [[body]] = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], feature_layer="body")
        [[conv]] = explainer.explain(IMAGES[:1], [[ClassIndex(1)]], feature_layer="body.conv")
        with torch.no_grad():
            features = model.body.conv(IMAGES[:1])[0]
            expected = torch.einsum("k,khw->hw", model.head.weight[1], features) / 256
        assert difference(body.map, expected) <= 1e-5
        assert difference(conv.map, expected) <= 1e-5
        assert explainer.report.feature_layer == "body"
        assert explainer.report.classes == 5


def test_features_survive_a_later_write_to_what_the_layer_returned() -> None:
    class Reusing(nn.Module):
        """`keep` returns its input itself, and the caller reuses that memory once it is read."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)
            self.keep = nn.Identity()
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            buffer = self.conv(x)
            logits = self.head(self.keep(buffer).mean((2, 3)))
            buffer.zero_()
            return logits

    model = randomised(Reusing())
    [[attribution]] = Explainer(model, IMAGES[:1]).explain(
        IMAGES[:1], [[ClassIndex(1)]], feature_layer="keep"
    )
    with torch.no_grad():
        features = model.conv(IMAGES[:1])[0]
        expected = torch.einsum("k,khw->hw", model.head.weight[1], features) / 256
    assert difference(attribution.map, expected) <= 1e-5


def test_rows_that_would_mix_are_explained_one_by_one() -> None:
    """A batch norm without statistics of its own knows its neighbours."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False), PooledHead(8)
    )
    explainer = Explainer(randomised(model), IMAGES[:1], feature_layer="0")
    sizes = count_forwards(model)
    together = explainer.explain(IMAGES, [[ClassIndex(1)], [], [ClassIndex(2)], [ClassIndex(1)]])
    assert sizes == [1, 1, 1]
    outputs = explainer.output(IMAGES)
    for row, found in enumerate(together):
        assert torch.equal(outputs[row], explainer.output(IMAGES[row : row + 1])[0])
        for one in found:
            target = ClassIndex(one.class_index or 0)
            [[alone]] = explainer.explain(IMAGES[row : row + 1], [[target]])
            assert torch.equal(one.map, alone.map)
            assert one.score == alone.score


@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")
def test_a_program_for_one_input_takes_several() -> None:
    program = torch.export.export(randomised(PlainCNN()), (IMAGES[:1],))
    explainer = Explainer(torch.export.unflatten(program), IMAGES[:1])
    assert explainer.report.rows_are_independent is None
    together = explainer.explain(IMAGES, [[ClassIndex(1)]] * 4)
    [[alone]] = explainer.explain(IMAGES[3:], [[ClassIndex(1)]])
    assert torch.equal(together[3][0].map, alone.map)


class PooledHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.relu().square().mean((2, 3)))
