"""Clocks: what is compared runs in turns, and a wait is counted from when it should have begun."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.figures import Figure, Target

__all__ = ["Turns", "in_turns", "quantile", "timed"]

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Turns:
    """Seconds of each thing, in the order of the rounds."""

    seconds: Mapping[str, Sequence[float]]

    def median_s(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, what: str, above: str, below: str, target: Target | None = None) -> Figure:
        """How many times the one cost the other: the median over rounds, each of which had both
        under the same conditions."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        ratios = [one / other for one, other in pairs]
        low, value, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Figure(what, value, "x", target, (low, high))


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run, with what it left running on a GPU."""
    start_s = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start_s


def in_turns(runs: Mapping[str, Callable[[], float]], *, budget_s: float, most: int = 25) -> Turns:
    """Run each once a round, the first round for warming up only; each says its seconds.

    Rounds go on for `budget_s`, but for LEAST_ROUNDS to `most` of them; each begins with another
    one, so that none always runs behind the same neighbour.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    end_s = time.perf_counter() + budget_s
    for number in itertools.count():
        if number >= most or (number >= LEAST_ROUNDS and time.perf_counter() > end_s):
            return Turns(seconds)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(runs[name]())
    raise AssertionError


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed: nearest rank, so one that occurred."""
    ordered = sorted(values)
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(rank, 1) - 1]
