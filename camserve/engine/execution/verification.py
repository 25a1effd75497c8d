"""Whether a network that is run in another way explains as it does when it is run as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from camserve.engine.execution.execution import Execution
from camserve.engine.execution.trials import Agreement, agreement
from camserve.engine.recording import SEED, noise_like
from camserve.engine.targets import Top
from camserve.vocabulary import Precision

if TYPE_CHECKING:
    from camserve.engine.explainer import Explainer

__all__ = ["Verification"]


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

    def agreement(self, execution: Execution, precision: Precision) -> Agreement:
        """Of both inputs together, and of the first alone. Raises what the execution raises."""
        trying = self._explainer.with_execution(execution)
        found = trying.explain(self.inputs, self._targets, precision=precision)
        single = self.inputs.narrow(execution.batch, 0, 1)
        alone = trying.explain(single, self._targets[:1], precision=precision)
        return agreement([*found, *alone], [*self._expected, self._expected[0]])
