"""The model's own answer to inputs, with the explanation's precision and its retry in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from camserve.engine.diagnostics import Diagnostic
from camserve.engine.score_layout import in_own_order

__all__ = ["Prediction", "predictions_of"]


@dataclass(frozen=True)
class Prediction:
    """`output`: what the model returns for one input, its dimensions in the model's order without
    B, on the CPU; float32, or float64 of a float64 model. `diagnostics`: `NONFINITE`, or
    `NONFINITE_RETRIED` where half precision made it so, and this is float32."""

    output: Tensor
    diagnostics: tuple[Diagnostic, ...] = ()


def predictions_of(outputs: Tensor, letters: str, again: Mapping[int, Tensor]) -> list[Prediction]:
    """outputs: (N, C, *D). letters: labels of the model's output. again: (C, *D) of the rows that
    were computed again."""
    found: list[Prediction] = []
    for row, first in enumerate(outputs):
        output = again.get(row, first)
        diagnostics: tuple[Diagnostic, ...] = ()
        if not output.isfinite().all():
            diagnostics = (Diagnostic.NONFINITE,)
        elif row in again:
            diagnostics = (Diagnostic.NONFINITE_RETRIED,)
        found.append(Prediction(in_own_order(output, letters).cpu(), diagnostics))
    return found
