"""The score of an input that changes: the target is settled on the original input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camserve.engine import Budget, ClassIndex, Explainer, Reduction, Top
from camserve.errors import InvalidRequest
from camserve.expressions import parse
from tests.engine.networks import PlainCNN, ResNetLike, UNet, randomised
from tests.engine.truth import difference

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(11))


def test_score_of_settles_on_the_original_input() -> None:
    """What Top, the best other class and the predicted region mean is decided once."""
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    changed = torch.cat([IMAGES[1:], -IMAGES, 3 * IMAGES])
    with torch.no_grad():
        logits, others = model(IMAGES[:1])[0], model(changed)
    best, second = logits.topk(2).indices.tolist()
    assert set(others.argmax(1).tolist()) != {best}
    settled: list[tuple[Any, Tensor]] = [
        (Top(1), others[:, best]),
        (ClassIndex(3), others[:, 3]),
        (Reduction("class_margin", class_index=best), others[:, best] - others[:, second]),
        (Reduction("norm"), others.norm(dim=1)),
        (parse("x[2] - x[0]"), others[:, 2] - others[:, 0]),
    ]
    for target, expected in settled:
        score_of = explainer.score_of(IMAGES[:1], target)
        found = score_of(changed)
        assert found.shape == (len(changed),)
        assert not found.requires_grad
        assert difference(found, expected) <= 1e-5
    probabilities = explainer.score_of(IMAGES[:1], Top(1), reduction_layer="softmax")
    assert difference(probabilities(changed), others.double().softmax(1)[:, best]) <= 1e-5
    margin = Reduction("class_margin", class_index=best)
    assert (
        difference(  # of probabilities too, the second best by the original input's
            explainer.score_of(IMAGES[:1], margin, reduction_layer="softmax")(changed),
            others.double().softmax(1)[:, best] - others.double().softmax(1)[:, second],
        )
        <= 1e-5
    )


def test_score_of_keeps_the_predicted_region() -> None:
    model = randomised(UNet())
    explainer = Explainer(model, IMAGES[:1])
    with torch.no_grad():
        original, changed = model(IMAGES[:1])[0], model(IMAGES)
    index = int(original.argmax(0).flatten().mode().values)
    predicted = original.argmax(0) == index
    assert not torch.equal(changed[1].argmax(0) == index, predicted)
    score_of = explainer.score_of(IMAGES[:1], Reduction("segmentation", class_index=index))
    expected = torch.stack([row[index][predicted].sum() for row in changed])
    assert difference(score_of(IMAGES), expected) <= 1e-5


def test_score_of_takes_channels_first_and_counts() -> None:
    class ChannelsLast(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 3, 1, 2))

    model = randomised(ChannelsLast())
    turned = IMAGES.permute(0, 2, 3, 1)
    explainer = Explainer(model, turned[:1], input_format="BSSC")
    budget = Budget()
    score_of = explainer.score_of(turned[:1], ClassIndex(1), budget=budget)
    with torch.no_grad():
        expected = model(turned)[:, 1]
    assert difference(score_of(IMAGES), expected) <= 1e-6
    assert difference(score_of(IMAGES[:2]), expected[:2]) <= 1e-6
    assert budget.spent == 5


def test_score_of_a_model_of_one_input_and_of_one_that_mixes_its_rows() -> None:
    """Such a model gets one variant at a time."""

    class OneByOne(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(1, *x.shape[1:]))

    class Mixing(PlainCNN):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits - logits.mean(0) if len(x) > 1 else logits

    for kind in (OneByOne, Mixing):
        model = randomised(kind())
        score_of = Explainer(model, IMAGES[:1]).score_of(IMAGES[:1], ClassIndex(1))
        with torch.no_grad():
            expected = torch.cat([model(image[None])[:, 1] for image in IMAGES])
        assert difference(score_of(IMAGES), expected) <= 1e-6


def test_score_of_in_half_precision_has_a_float32_head() -> None:
    model = randomised(ResNetLike())
    explainer = Explainer(model, IMAGES[:1])
    seen: list[torch.dtype] = []
    model.fc.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    score_of = explainer.score_of(IMAGES[:1], ClassIndex(1), precision="bfloat16")
    assert score_of(IMAGES).dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_score_of_needs_one_score() -> None:
    explainer = Explainer(randomised(ResNetLike()), IMAGES[:1])
    with pytest.raises(InvalidRequest, match="has 2 scores: one is needed"):
        explainer.score_of(IMAGES[:1], Top(2))
