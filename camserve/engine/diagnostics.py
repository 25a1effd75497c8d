"""What is wrong with a map, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

__all__ = ["Diagnostic", "diagnose"]


class Diagnostic(StrEnum):
    """A reason to distrust a map; `advice` says what to do."""

    NONFINITE = "nonfinite"
    NONFINITE_RETRIED = "nonfinite_retried"
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
        "The result has infinities or NaN, in float32 too: check the input and the model's weights."
    ),
    Diagnostic.NONFINITE_RETRIED: (
        "Half precision gave infinities or NaN, so this was computed again in float32: ask this "
        "model for bfloat16, whose range is float32's, or for float32."
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
    ranges: Sequence[tuple[float, float]], *, finite: bool, zero_gradient: bool, saturated: bool
) -> tuple[Diagnostic, ...]:
    """The diagnostics of one target's signed maps, one for each layer, by their least and largest
    values. finite: whether the maps and the score are.

    What is not finite has no other diagnostic; one without gradient is not also called flat. Of
    several layers, all must be flat, or negative.
    """
    if not finite:
        return (Diagnostic.NONFINITE,)
    found = [Diagnostic.SATURATED] if saturated else []
    if zero_gradient:
        found.insert(0, Diagnostic.ZERO_GRADIENT)
    elif all(high - low <= 1e-6 * max(abs(low), abs(high)) for low, high in ranges):
        found.append(Diagnostic.FLAT)
    if all(high <= 0 for _, high in ranges) and any(low < 0 for low, _ in ranges):
        found.append(Diagnostic.NEGATIVE_ONLY)
    return tuple(found)
