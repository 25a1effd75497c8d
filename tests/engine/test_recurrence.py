"""A stand-in of cuDNN's recurrent layers, which refuse a backward pass in evaluation mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from tests.engine.networks import PlainCNN, randomised
from tests.engine.truth import difference


class _Refusing(torch.autograd.Function):
    """The square, with a backward pass only where cuDNN is off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        if torch.backends.cudnn.enabled:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return 2 * ctx.saved_tensors[0] * slope


class Recurrent(PlainCNN):
    refusing = True

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).flatten(2).mean(2)
        return self.head(_Refusing.apply(features) if self.refusing else features.square())


def test_a_refusal_of_cudnn_is_answered_by_doing_without() -> None:
    inputs = torch.randn(1, 3, 32, 32)
    plain = randomised(Recurrent())
    plain.refusing = False
    [[truth]] = Explainer(plain, inputs).explain(inputs, [[ClassIndex(1)]])
    explainer = Explainer(randomised(Recurrent()), inputs)
    for _ in range(2):
        [[attribution]] = explainer.explain(inputs, [[ClassIndex(1)]])
        assert difference(attribution.map, truth.map) <= 1e-6
        assert torch.backends.cudnn.enabled


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    class Broken(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        Explainer(randomised(Broken()), torch.zeros(1, 3, 32, 32))
    assert len(calls) == 1
    assert isinstance(Broken(), nn.Module)
