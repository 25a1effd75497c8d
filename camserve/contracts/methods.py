"""How the map is computed: method, and whether it is put to the test."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from camserve.contracts.base import Message
from camserve.vocabulary import Baseline, Method, Metric

__all__ = ["METHOD_HELP", "Evaluate", "MethodOptions", "check_options", "is_costly"]

METHOD_HELP = (
    "The attribution method. `scorecam` and `ablationcam` cost a forward pass for each channel of "
    "the feature layer, `guided-gradcam` a full backward pass, all others about one forward pass."
)

_COSTLY: Final[tuple[Method, ...]] = ("scorecam", "ablationcam", "guided-gradcam")
_PERTURBING: Final[tuple[Method, ...]] = ("scorecam", "ablationcam")
_TAKEN_BY: Final[dict[str, tuple[Method, ...]]] = {
    "channels": _PERTURBING,
    "comparisons": ("finercam",),
    "comparison_strength": ("finercam",),
}


class MethodOptions(Message):
    """What some methods can be told."""

    channels: Annotated[int, Field(ge=1, le=65_536, strict=True)] | None = Field(
        None,
        description="`scorecam`, `ablationcam`: use only so many channels, those whose activations "
        "vary most over the map; default: all.",
    )
    comparisons: Annotated[int, Field(ge=1, le=100, strict=True)] | None = Field(
        None,
        description="`finercam`: with how many of the most similar classes the class is compared; "
        "default: 3.",
    )
    comparison_strength: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="`finercam`: weight of the other class's score; default: 1."
    )


def is_costly(method: Method, evaluate: Evaluate | None) -> bool:
    """Whether an input takes more than one forward pass."""
    return method in _COSTLY or evaluate is not None


def check_options(method: Method, options: MethodOptions) -> None:
    """Raises ValueError for an option that the method has no use for."""
    for name, methods in _TAKEN_BY.items():
        if getattr(options, name) is not None and method not in methods:
            raise ValueError(f"method_options.{name} goes with {' and '.join(methods)}")


class Evaluate(Message):
    """Put the map to the test; each metric costs further forward passes."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=3, fail_fast=True)] = (
        Field(
            ("deletion", "insertion"),
            description="`deletion`, `insertion`: how fast the score falls (rises) as positions "
            "are removed (restored), the most important first, as the area under that curve. "
            "`randomisation`: how similar the map is to that of the same network with shuffled "
            "weights.",
        )
    )
    steps: Annotated[int, Field(ge=2, le=200, strict=True)] = Field(
        20, description="Points of a curve besides its first; each costs a forward pass."
    )
    baseline: Baseline = Field(
        "blur",
        description="What stands in for a removed position: a blurred input, its mean, or 0.",
    )
