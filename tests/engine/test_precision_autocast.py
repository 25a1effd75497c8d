"""Half precision gives autocast back, and the caller's own does not reach inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from camserve.engine import ClassIndex, Explainer
from camserve.vocabulary import Method, Precision
from tests.engine.curved import curved
from tests.engine.half_precision import HALVES
from tests.engine.hooks import hooks
from tests.engine.truth import difference


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
