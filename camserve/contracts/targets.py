"""Targets: what an explanation explains. Exactly one kind each; indices start at 0."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from camserve.contracts.base import Message
from camserve.contracts.reductions import (
    REDUCTION_NAME,
    Index,
    ReductionParameters,
    check_parameters,
)
from camserve.vocabulary import MAX_TARGETS, REDUCTIONS

__all__ = [
    "TARGET_KEYS",
    "ClassIndexTarget",
    "ClassLabelTarget",
    "ExpressionTarget",
    "ReductionTarget",
    "Target",
    "TopTarget",
]

# fail fast: the wrong items of a list as long as a body may be are not all worth a report
Indices = Annotated[tuple[Index, ...], Field(min_length=1, max_length=MAX_TARGETS, fail_fast=True)]


class ClassIndexTarget(Message):
    """A class by its index, or a list of classes (one map each)."""

    class_index: Index | Indices = Field(
        description="Class index, counted from 0 (MATLAB counts from 1), or a list of them.",
        examples=[281],
    )

    @property
    def indices(self) -> tuple[int, ...]:
        return (self.class_index,) if isinstance(self.class_index, int) else self.class_index

    @property
    def count(self) -> int:
        """How many maps it gives for each input."""
        return len(self.indices)


class ClassLabelTarget(Message):
    """A class by its label, as the model card spells it."""

    class_label: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="Class label of the model card; case does not matter.", examples=["tabby cat"]
    )

    @property
    def count(self) -> int:
        return 1


class TopTarget(Message):
    """The best classes of this very input, best first: one map each."""

    top: Annotated[int, Field(ge=1, le=MAX_TARGETS, strict=True)] = Field(
        description="How many of the best classes to explain.", examples=[3]
    )

    @property
    def count(self) -> int:
        return self.top


class ReductionTarget(Message):
    """A named reduction: a differentiable scalar of the reduction layer's output.

    The name is one of ours, or one of the model card's own.
    """

    reduction: Annotated[str, StringConstraints(pattern=REDUCTION_NAME)] = Field(
        description=f"One of {', '.join(f'`{name}`' for name in REDUCTIONS)}, or a name "
        "of the model card's own.",
        examples=["entropy"],
    )
    params: ReductionParameters = ReductionParameters()

    @model_validator(mode="after")
    def _fitting_parameters(self) -> Self:
        check_parameters(self.reduction, self.params)
        return self

    @property
    def count(self) -> int:
        return 1


class ExpressionTarget(Message):
    """A scalar of your own: an expression of `x`, the reduction layer's output for one input."""

    expression: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="Numbers, `x`, indices and slices, + - * /, comparisons and a dozen functions; "
        "see docs/expressions.md.",
        examples=["x[3] - x[5]"],
    )

    @property
    def count(self) -> int:
        return 1


_KINDS: dict[str, type[Message]] = {
    "class_index": ClassIndexTarget,
    "class_label": ClassLabelTarget,
    "top": TopTarget,
    "reduction": ReductionTarget,
    "expression": ExpressionTarget,
}
TARGET_KEYS = tuple(_KINDS)


def _kind(value: Any) -> str | None:
    """The one key that says which kind of target this is; None if there is none or several."""
    if isinstance(value, dict):
        present = [key for key in TARGET_KEYS if key in value]
        return present[0] if len(present) == 1 else None
    return next((key for key, kind in _KINDS.items() if isinstance(value, kind)), None)


Target = Annotated[
    Annotated[ClassIndexTarget, Tag("class_index")]
    | Annotated[ClassLabelTarget, Tag("class_label")]
    | Annotated[TopTarget, Tag("top")]
    | Annotated[ReductionTarget, Tag("reduction")]
    | Annotated[ExpressionTarget, Tag("expression")],
    Discriminator(
        _kind,
        custom_error_type="one_target",
        custom_error_message=f"a target has exactly one of {', '.join(TARGET_KEYS)}",
    ),
]
