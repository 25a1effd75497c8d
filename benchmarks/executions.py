"""The ways in which the engine can compute a map of one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.machine import instructions
from camserve.engine import Attribution, Explainer, Target
from camserve.vocabulary import Precision

__all__ = ["Execution", "executions"]


@dataclass(frozen=True)
class Execution:
    """An explainer, and the precision to ask it for."""

    name: str
    explainer: Explainer
    precision: Precision = "float32"

    @property
    def is_fast_here(self) -> bool:
        """Whether the processor has instructions for this precision; it is not slow for want of
        our work where it has none."""
        return self.precision == "float32" or "amx_bf16" in instructions()

    def explain(
        self, inputs: Tensor, targets: Sequence[Sequence[Target]]
    ) -> list[list[Attribution]]:
        return self.explainer.explain(inputs, targets, precision=self.precision)


def executions(
    build: Callable[[], nn.Module], shape: tuple[int, ...], device: str
) -> list[Execution]:
    """Each has a model of its own: an optimised one is changed. shape: of one input."""
    probe = torch.zeros(1, *shape)
    exact = Explainer(build().to(device), probe)
    return [Execution("exact", exact), Execution("bfloat16", exact, "bfloat16")]
