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


@pytest.mark.parametrize("precision", HALVES)
def test_a_networks_own_autocast_around_the_layer_does_not_reach_the_head(
    precision: Precision,
) -> None:
    """Where it ends, it turns on what it found at its start."""

    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
            self.fc = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            with torch.autocast("cpu", enabled=False):
                x = self.body(x.float())
            return self.fc(x.relu().mean((2, 3)))

    model = Guarded()
    seen: list[torch.dtype] = []
    model.fc.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    image = torch.randn(1, 3, 32, 32)
    explainer = Explainer(model, image, feature_layer="body")
    seen.clear()
    explainer.explain(image, [[ClassIndex(1)]], precision=precision)
    assert seen == [torch.float32]
    assert not torch.is_autocast_enabled("cpu")
