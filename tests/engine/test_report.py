"""What the report tells of a model once its probe has run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camserve.engine import Explainer
from tests.engine.networks import PlainCNN, UNet, randomised


def test_strangers_in_a_batch_are_noticed() -> None:
    """A BatchNorm without running statistics makes each row depend on the others."""
    of_the_batch = nn.BatchNorm2d(8, track_running_stats=False)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    mixing = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), of_the_batch, nn.ReLU(), *pooled)
    probe = torch.zeros(1, 3, 32, 32)
    assert Explainer(randomised(mixing), probe).report.rows_are_independent is False
    assert Explainer(randomised(PlainCNN()), probe).report.rows_are_independent is True

    class OnlyOne(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(1, 3, 32, 32))

    assert Explainer(randomised(OnlyOne()), probe).report.rows_are_independent is None


def test_a_model_that_ends_in_probabilities_is_noticed() -> None:
    probe = torch.zeros(1, 3, 32, 32)
    plain, soft = PlainCNN(), nn.Sequential(PlainCNN(), nn.Softmax(1))
    assert not Explainer(randomised(plain), probe).report.ends_in_probabilities
    assert Explainer(randomised(soft), probe).report.ends_in_probabilities
    dense = nn.Sequential(UNet(), nn.Softmax(1))
    assert Explainer(randomised(dense), probe).report.ends_in_probabilities
