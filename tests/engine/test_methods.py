"""Every method against its paper's formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from camserve.engine import Budget, ClassIndex, Explainer, Top
from camserve.engine.methods.gradient import grad_cam
from camserve.vocabulary import METHODS, Method
from tests.engine.curved import SEEDS, Curved, Relu, curved
from tests.engine.formulas import TRUTHS, Known, truth
from tests.engine.networks import randomised
from tests.engine.truth import difference

PRECISIONS = {"f32": (torch.float32, 1e-5), "f64": (torch.float64, 1e-12)}


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


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor has that memory was taken for."""

    numbers = 0

    def __torch_dispatch__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        found = call(*args, **(kwargs or {}))
        if found.untyped_storage().data_ptr() not in known:
            self.numbers = max(self.numbers, found.untyped_storage().nbytes() // found.itemsize)
        return found


def test_many_targets_of_a_pooled_head_copy_no_activations() -> None:
    """Their weights are a matrix for each row. One by one they would take a copy of all activations
    for each target, which is several times what the head costs."""
    dice = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 16, 7, 7, generator=dice)
    slopes = torch.randn(50, 3, 16, 1, 1, generator=dice)
    with LargestTensor() as largest:
        maps = grad_cam(activations, slopes.expand(50, 3, 16, 7, 7))
    assert largest.numbers <= 50 * 3 * 7 * 7
    expected = torch.einsum("tnk,nkyx->tnyx", slopes[..., 0, 0], activations)
    assert difference(maps, expected) <= 1e-6
