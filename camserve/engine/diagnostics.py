"""What is wrong with a map, and what to do about it."""

from __future__ import annotations

import math
from enum import StrEnum

from torch import Tensor

__all__ = ["Diagnostic", "diagnose"]


class Diagnostic(StrEnum):
    """A reason to distrust a map; `advice` says what to do."""

    NONFINITE = "nonfinite"
    ZERO_GRADIENT = "zero_gradient"
    SATURATED = "saturated"
    FLAT = "flat"
    NEGATIVE_ONLY = "negative_only"

    @property
    def advice(self) -> str:
        """One sentence on what to do."""
        return _ADVICE[self]


_ADVICE = {
    Diagnostic.NONFINITE: (
        "The map or its score has infinities or NaN: check the input and the model's weights, "
        "or run the model in float32."
    ),
    Diagnostic.ZERO_GRADIENT: (
        "The score does not change with the features: choose another target, a layer nearer to "
        "the output, or the logit instead of a probability."
    ),
    Diagnostic.SATURATED: (
        "The probability is so near to 1 that hardly any gradient is left: explain the logit "
        "(reduction layer 'output') or the reduction 'log_odds'."
    ),
    Diagnostic.FLAT: (
        "All positions have the same value: choose an earlier feature layer, which has not yet "
        "been pooled."
    ),
    Diagnostic.NEGATIVE_ONLY: (
        "No position speaks for the target, so a ReLU leaves nothing: look at the signed map, or "
        "explain a class that the model finds more probable."
    ),
}


def diagnose(
    cam: Tensor, score: float, *, zero_gradient: bool, saturated: bool
) -> tuple[Diagnostic, ...]:
    """The diagnostics of one signed map (*S) on the CPU.

    A map that is not finite has no other diagnostic; one without gradient is not also called flat.
    """
    if not bool(cam.isfinite().all()) or not math.isfinite(score):
        return (Diagnostic.NONFINITE,)
    found = [Diagnostic.SATURATED] if saturated else []
    lowest, highest = float(cam.min()), float(cam.max())
    if zero_gradient:
        found.insert(0, Diagnostic.ZERO_GRADIENT)
    elif highest - lowest <= 1e-6 * max(abs(lowest), abs(highest)):
        found.append(Diagnostic.FLAT)
    if highest <= 0 and lowest < 0:
        found.append(Diagnostic.NEGATIVE_ONLY)
    return tuple(found)
