"""The ways in which the engine can compute a map of one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from benchmarks.machine import instructions
from benchmarks.networks import Network
from benchmarks.options import Options
from benchmarks.running import PACKAGES
from camserve.engine import Attribution, Explainer, Target
from camserve.engine.execution import Compiler, optimize
from camserve.vocabulary import Precision

__all__ = ["Execution", "exact", "executions", "optimised"]

BATCH: Final = 8  # what a worker computes at once
COMPILE_LIMIT_S: Final = 300
BFLOAT16: Final = frozenset({"avx512_bf16", "amx_bf16"})  # instructions for it


@dataclass(frozen=True)
class Execution:
    """An explainer, and the precision to ask it for. way: how it runs the backbone."""

    name: str
    explainer: Explainer
    precision: Precision = "float32"
    way: str = ""

    @property
    def is_fast_here(self) -> bool:
        """Whether the processor has instructions for this precision; it is not slow for want of
        our work where it has none."""
        return self.precision == "float32" or bool(BFLOAT16 & set(instructions()))

    @property
    def title(self) -> str:
        return f"{self.name} ({self.way})" if self.way else self.name

    def explain(
        self, inputs: Tensor, targets: Sequence[Sequence[Target]]
    ) -> list[list[Attribution]]:
        return self.explainer.explain(inputs, targets, precision=self.precision)


def executions(network: Network, options: Options) -> list[Execution]:
    """The model as it is, first; then as a worker runs it, in each precision."""
    return [exact(network, options), *optimised(network, options, ("float32", "bfloat16"))]


def exact(network: Network, options: Options) -> Execution:
    """Undivided and eager: the truth that the others are held against."""
    probe = torch.zeros(1, *network.shape)
    return Execution("exact", Explainer(network.build().to(options.device), probe))


def optimised(
    network: Network, options: Options, precisions: Sequence[Precision] = ("float32",)
) -> list[Execution]:
    """With the same search for the fastest way as in a worker.

    What is compiled takes half a minute the first time.
    """
    explainer = exact(network, options).explainer
    folder = PACKAGES / network.name.replace("/", "-")
    compiler = Compiler(folder, COMPILE_LIMIT_S) if network.compiles else None
    names = {"float32": "optimised"}
    return [
        Execution(
            names.get(precision, precision),
            explainer,
            precision,
            optimize(explainer, precision, BATCH, compiler).way,
        )
        for precision in precisions
    ]
