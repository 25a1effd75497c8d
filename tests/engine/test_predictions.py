"""The engine's predictions against the bare network, and against what explanations report."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Diagnostic, Explainer
from camserve.engine.recording import noise_like
from camserve.errors import InvalidInput, InvalidRequest
from camserve.vocabulary import Precision
from tests.engine.half_precision import HALVES, IMAGES, loud
from tests.engine.networks import PlainCNN, ResNetLike, UNet, randomised


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs.clone())


@pytest.mark.parametrize("network", [PlainCNN, ResNetLike])
def test_they_are_the_networks_own(network: type[nn.Module]) -> None:
    model = randomised(network())
    expected = plain(model, IMAGES)
    found = Explainer(model, IMAGES[:1]).predict(IMAGES)
    assert len(found) == 3
    for row, one in enumerate(found):
        assert torch.equal(one.output, expected[row])
        assert one.output.device.type == "cpu"
        assert not one.output.requires_grad
        assert one.diagnostics == ()


@pytest.mark.parametrize("precision", ["float32", *HALVES])
def test_they_are_what_explanations_report(precision: Precision) -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGES[:1])
    targets = [[ClassIndex(c) for c in range(5)]] * len(IMAGES)
    explained = explainer.explain(IMAGES, targets, precision=precision)
    for one, row in zip(explainer.predict(IMAGES, precision=precision), explained, strict=True):
        scores = torch.tensor([attribution.score for attribution in row])
        torch.testing.assert_close(one.output, scores, rtol=1e-6, atol=1e-6)


def test_half_precision_is_used() -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGES[:1])
    exact, half = (explainer.predict(IMAGES, precision=p) for p in ("float32", "bfloat16"))
    for a, b in zip(exact, half, strict=True):
        assert not torch.equal(a.output, b.output)
        assert b.output.dtype == torch.float32
        torch.testing.assert_close(a.output, b.output, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("precision", list(HALVES))
def test_what_overflows_in_half_precision_is_computed_again(precision: Precision) -> None:
    model, inputs = loud(precision)
    first, second = Explainer(model, inputs[:1]).predict(inputs, precision=precision)
    assert (first.diagnostics, second.diagnostics) == ((Diagnostic.NONFINITE_RETRIED,), ())
    torch.testing.assert_close(first.output, plain(model, inputs)[0], rtol=1e-6, atol=1e-6)


def test_what_is_not_finite_in_float32_says_so() -> None:
    model = randomised(PlainCNN())
    with torch.no_grad():
        model.head.bias[2] = torch.inf
    (one,) = Explainer(model, IMAGES[:1]).predict(IMAGES[:1])
    assert one.diagnostics == (Diagnostic.NONFINITE,)
    assert one.output[2] == torch.inf


class ClassesLast(nn.Module):
    """A dense output (B, S, S, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).permute(0, 2, 3, 1)


@pytest.mark.parametrize(("network", "labels"), [(UNet, "BCSS"), (ClassesLast, "BSSC")])
def test_dimensions_keep_the_models_order(network: type[nn.Module], labels: str) -> None:
    model = randomised(network())
    explainer = Explainer(model, IMAGES[:1], output_format=labels)
    expected = plain(model, IMAGES)
    for row, one in enumerate(explainer.predict(IMAGES)):
        assert one.output.shape == expected[row].shape
        torch.testing.assert_close(one.output, expected[row], rtol=1e-6, atol=1e-6)


class Mixing(nn.Module):
    """Takes off the batch's mean: an input's output depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PlainCNN()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out + x.mean((0, 2, 3)).sum()


def test_a_model_that_mixes_its_inputs_gets_them_one_by_one() -> None:
    model = randomised(Mixing())
    explainer = Explainer(model, IMAGES[:1])
    assert not explainer.report.rows_are_independent
    for row, one in enumerate(explainer.predict(IMAGES)):
        assert torch.equal(one.output, plain(model, IMAGES[row : row + 1])[0])


def test_a_model_without_a_feature_layer_predicts_all_the_same() -> None:
    model = randomised(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)))
    probe = torch.zeros(1, 3, 8, 8)
    explainer = Explainer(model, probe)
    assert not explainer.report.feature_layers
    inputs = noise_like(probe, torch.Generator().manual_seed(1))
    (one,) = explainer.predict(inputs)
    assert torch.equal(one.output, plain(model, inputs)[0])
    (half,) = explainer.predict(inputs, precision="bfloat16")
    assert half.output.dtype == torch.float32
    assert not torch.equal(half.output, one.output)


def test_a_named_reduction_layer_does_not_change_the_models_answer() -> None:
    model = randomised(PlainCNN())
    explainer = Explainer(model, IMAGES[:1], reduction_layer="softmax")
    (one,) = explainer.predict(IMAGES[:1])
    assert torch.equal(one.output, plain(model, IMAGES[:1])[0])


def test_it_borrows_no_hook_and_leaves_no_trace() -> None:
    model = randomised(PlainCNN())
    explainer = Explainer(model, IMAGES[:1])
    seen: list[int] = []

    def count(*_: object) -> None:
        seen.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()))

    handle = model.head.register_forward_hook(count)
    before = IMAGES.clone()
    explainer.predict(IMAGES)
    assert seen == [1]  # this test's own
    handle.remove()
    assert torch.equal(IMAGES, before)
    assert all(weight.grad is None for weight in model.parameters())


def test_what_is_refused() -> None:
    explainer = Explainer(randomised(PlainCNN()), IMAGES[:1])
    with pytest.raises(InvalidInput):
        explainer.predict(torch.zeros(1, 4, 32, 32))
    with pytest.raises(InvalidRequest, match="float8"):
        explainer.predict(IMAGES, precision="float8")  # type: ignore[arg-type]
