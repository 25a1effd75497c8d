"""Forward passes and time: counted, and refused or stopped when there are too many."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from camserve.engine import Budget, ClassIndex, Explainer
from camserve.errors import Canceled, OverBudget
from camserve.vocabulary import METHODS, Method
from tests.engine.curved import curved
from tests.engine.formulas import PERTURBING


@pytest.mark.parametrize("method", PERTURBING)
def test_too_many_passes_are_refused_before_the_first(method: Method) -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda _m, args: forwards.append(len(args[0])))
    needed = 2 * (1 + 6)
    assert 2 * explainer.passes(method) == needed
    targets = [[ClassIndex(1)]] * 2
    with pytest.raises(OverBudget, match=f"{needed} forward passes are needed") as caught:
        explainer.explain(inputs, targets, method=method, budget=Budget(passes=needed - 1))
    assert caught.value.extensions == {"needed": needed, "limit": needed - 1}
    assert not forwards
    budget = Budget(passes=needed)
    explainer.explain(inputs, targets, method=method, budget=budget)
    assert budget.spent == needed
    # with fewer channels it fits, and two layers cost twice as much
    fewer = Budget(passes=needed)
    layers = ["features", "features.0"]
    options: Any = {"method": method, "feature_layer": layers, "channels": 2}
    explainer.explain(inputs, targets, budget=fewer, **options)
    assert fewer.spent == 2 * (1 + 2 * 2)
    assert explainer.passes(method, feature_layer=layers, channels=2) == 1 + 2 * 2


def test_passes_of_the_other_methods() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    for method in METHODS:
        if method not in PERTURBING:
            budget = Budget()
            explainer.explain(inputs, [[ClassIndex(1)]] * 2, method=method, budget=budget)
            assert budget.spent == (4 if method == "guided-gradcam" else 2)
            assert 2 * explainer.passes(method) == budget.spent


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


@pytest.mark.parametrize("method", [*PERTURBING, "guided-gradcam"])
def test_what_is_withdrawn_stops_before_its_next_pass(method: Method) -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    withdrawn, forwards = threading.Event(), []

    def count(_model: object, args: tuple[Tensor]) -> None:
        forwards.append(len(args[0]))
        if len(forwards) == 1:
            withdrawn.set()  # another thread does, while the pass runs

    handle = model.register_forward_pre_hook(count)
    budget = Budget(withdrawn=withdrawn)
    with pytest.raises(Canceled):
        explainer.explain(inputs[:1], [[ClassIndex(1)]], method=method, budget=budget, chunk=2)
    handle.remove()
    # the trial of whether the head takes more rows is on no budget
    assert forwards == ([1, 1] if method == "ablationcam" else [1])
    withdrawn.clear()
    ((found,),) = explainer.explain(inputs[:1], [[ClassIndex(1)]], method=method, budget=budget)
    assert found.map.isfinite().all()  # nothing is left behind
