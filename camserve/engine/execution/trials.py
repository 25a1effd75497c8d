"""Ways to run a backbone, tried beside each other: how fast each is, and how true its maps are."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.engine.attributions import Attribution
from camserve.engine.execution.execution import RunBackbone

__all__ = ["Agreement", "agreement", "medians_s"]

ROUNDS = 7
TIME_LIMIT_S = 10.0
"""Of measuring one set of ways at one batch size, at least `LEAST_ROUNDS`."""
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Agreement:
    """Of maps with those of the network as it is. error: largest difference, as a share of the
    largest value. pearson: the smallest correlation. Infinity, and 0, where there is no comparing.
    """

    error: float
    pearson: float


def medians_s(
    runs: Mapping[str, RunBackbone],
    inputs: Tensor,
    alone: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """Median seconds of each way, run in turns, so that a busy machine slows all of them.

    alone: what is measured runs inside, so that a job does not compute at the same time.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    began_s = time.perf_counter()
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            with alone(), torch.no_grad():
                _finish(inputs)  # what was launched before, by whomever
                start_s = time.perf_counter()
                run(inputs)
                _finish(inputs)
                if number:  # the first is for caches and allocators to warm up
                    times[name].append(time.perf_counter() - start_s)
        if number >= LEAST_ROUNDS and time.perf_counter() - began_s > TIME_LIMIT_S:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def _finish(inputs: Tensor) -> None:
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)


def agreement(
    found: Sequence[Sequence[Attribution]], expected: Sequence[Sequence[Attribution]]
) -> Agreement:
    """Of the maps of the same targets on the same inputs; the worst of them."""
    pairs = [
        (ours.double(), theirs.double())
        for row, known in zip(found, expected, strict=True)
        for one, other in zip(row, known, strict=True)
        for ours, theirs in zip(one.maps, other.maps, strict=True)
    ]
    errors = [_error(ours, theirs) for ours, theirs in pairs]
    return Agreement(max(errors), min(_pearson(ours, theirs) for ours, theirs in pairs))


def _error(found: Tensor, expected: Tensor) -> float:
    largest = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    if math.isnan(difference):
        return math.inf
    return difference / largest if largest > 0 else (0.0 if difference == 0 else math.inf)


def _pearson(found: Tensor, expected: Tensor) -> float:
    """1 of maps that are equal, also of flat ones, which have no correlation."""
    if torch.equal(found, expected):
        return 1.0
    value = float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1])
    return 0.0 if math.isnan(value) else value
