"""What overflows in half precision is computed again in float32, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camserve.engine import ClassIndex, Diagnostic, Explainer, Target, Top
from camserve.vocabulary import Method, Precision
from tests.engine.half_precision import HALVES, IMAGES, TOPS, Loud, loud
from tests.engine.hooks import hooks
from tests.engine.networks import PlainCNN, randomised
from tests.engine.truth import difference, pearson


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
