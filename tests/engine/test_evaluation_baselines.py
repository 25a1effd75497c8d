"""What stands in for deleted positions: a blur, a mean, zero."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from camserve.engine.evaluation import baseline_of
from tests.engine.formulas import Array
from tests.engine.tensors import SHAPES, random
from tests.engine.truth import difference


def blurred(image: Array) -> Array:
    """One kernel of all dimensions at once, one position at a time."""
    sigmas = [max(0.05 * side, 0.5) for side in image.shape[1:]]
    reaches = [max(1, round(3 * sigma)) for sigma in sigmas]
    offsets = list(itertools.product(*[range(-reach, reach + 1) for reach in reaches]))
    kernel = np.array(
        [
            math.exp(-sum(o * o / (2 * s * s) for o, s in zip(at, sigmas, strict=True)))
            for at in offsets
        ]
    )
    kernel /= kernel.sum()
    result = np.zeros_like(image)
    for channel, *position in np.ndindex(image.shape):
        for weight, offset in zip(kernel, offsets, strict=True):
            near = [
                min(max(p + o, 0), side - 1)
                for p, o, side in zip(position, offset, image.shape[1:], strict=True)
            ]
            result[(channel, *position)] += weight * image[(channel, *near)]
    return result


@pytest.mark.parametrize("shape", [*SHAPES.values(), (1, 40), (1, 24, 3), (1, 1, 1)])
def test_blur_is_a_convolution_with_a_gaussian(shape: tuple[int, ...]) -> None:
    image = random(*shape)
    found = baseline_of(image, "blur")
    assert difference(found, torch.from_numpy(blurred(image.numpy()))) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES.values())
def test_mean_and_zero(shape: tuple[int, ...]) -> None:
    image = random(*shape)
    mean = baseline_of(image, "mean")
    assert mean.shape == image.shape
    for channel, expected in zip(mean.numpy(), image.numpy(), strict=True):
        assert np.ptp(channel) == 0
        assert channel.flat[0] == pytest.approx(sum(expected.flat) / expected.size, rel=1e-12)
    zero = baseline_of(image, "zero")
    assert zero.shape == image.shape
    assert not zero.any()
