"""Whether a network that is run in another way explains as it does when it is run as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from camserve.engine.attributions import Attribution
from camserve.engine.execution.execution import Execution
from camserve.engine.execution.trials import Agreement, agreement
from camserve.engine.recording import SEED, noise_like
from camserve.engine.targets import Top
from camserve.vocabulary import Precision

if TYPE_CHECKING:
    from camserve.engine.explainer import Explainer

__all__ = ["COUNTS", "Verification"]

COUNTS = (1, 2)
"""Numbers of inputs that tell whether a way is true for any number."""


class Verification:
    """inputs: two of noise, which `execution` takes; their maps by the model's modules, in float32,
    are what others are held against."""

    def __init__(self, explainer: Explainer, execution: Execution) -> None:
        generator = torch.Generator().manual_seed(SEED)
        one = execution.split.example(1)
        rows = [noise_like(one, generator) for _ in range(2)]
        self.inputs = torch.cat(rows, execution.batch)
        self._explainer = explainer
        self._expected = explainer.with_execution(None).explain(self.inputs, [[Top(1)]] * 2)
        self._targets = [[one.target for one in row] for row in self._expected]

    def agreement(
        self, execution: Execution, precision: Precision, counts: Iterable[int] = COUNTS
    ) -> Agreement:
        """Of the inputs by turns, so many at once. Raises what the execution raises."""
        trying = self._explainer.with_execution(execution)
        found, expected = list[list[Attribution]](), list[list[Attribution]]()
        for count in counts:
            rows = [number % 2 for number in range(count)]
            chosen = torch.tensor(rows, device=self.inputs.device)
            inputs = self.inputs.index_select(execution.batch, chosen)
            targets = [self._targets[row] for row in rows]
            found += trying.explain(inputs, targets, precision=precision)
            expected += [self._expected[row] for row in rows]
        return agreement(found, expected)
