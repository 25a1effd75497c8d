"""Targets: what an explanation explains. Exactly one kind each; indices start at 0."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from camserve.contracts.base import Message

__all__ = [
    "REDUCTIONS_OF_LOGITS",
    "REDUCTION_PARAMETERS",
    "TARGET_KEYS",
    "ClassIndexTarget",
    "ClassLabelTarget",
    "ReductionName",
    "ReductionParameters",
    "ReductionTarget",
    "Takes",
    "Target",
    "TopTarget",
]

Index = Annotated[int, Field(ge=0, strict=True)]
ReductionName = Literal[
    "class_score",
    "class_margin",
    "log_odds",
    "output",
    "sum",
    "mean",
    "max",
    "norm",
    "entropy",
]


# fail fast: the wrong items of a list as long as a body may be are not all worth a report
Indices = Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000, fail_fast=True)]


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

    top: Annotated[int, Field(ge=1, le=100, strict=True)] = Field(
        description="How many of the best classes to explain.", examples=[3]
    )

    @property
    def count(self) -> int:
        return self.top


class ReductionParameters(Message):
    """Parameters of a named reduction; which of them it takes depends on the reduction."""

    class_index: Index | None = None
    against: Index | None = None
    index: Index | None = None


class Takes(NamedTuple):
    """The parameters that a reduction must have, and those that it may have."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


REDUCTION_PARAMETERS: dict[ReductionName, Takes] = dict.fromkeys(
    get_args(ReductionName), Takes()
) | {
    "class_score": Takes(required=("class_index",)),
    "class_margin": Takes(required=("class_index",), optional=("against",)),
    "log_odds": Takes(required=("class_index",)),
    "output": Takes(optional=("index",)),
}


REDUCTIONS_OF_LOGITS: tuple[ReductionName, ...] = ("log_odds", "entropy")
"""Those whose formula takes a softmax of its own: of probabilities they would be another number."""


class ReductionTarget(Message):
    """A named reduction: a differentiable scalar of the reduction layer's output."""

    reduction: ReductionName = Field(description="Name of the reduction.", examples=["entropy"])
    params: ReductionParameters = ReductionParameters()

    @model_validator(mode="after")
    def _fitting_parameters(self) -> Self:
        takes = REDUCTION_PARAMETERS[self.reduction]
        allowed = (*takes.required, *takes.optional)
        for name in ReductionParameters.model_fields:
            given = getattr(self.params, name) is not None
            if name in takes.required and not given:
                raise ValueError(f"reduction {self.reduction!r} needs params.{name}")
            if given and name not in allowed:
                raise ValueError(
                    f"reduction {self.reduction!r} does not take params.{name}: it takes "
                    f"{' and '.join(allowed) or 'no parameters'}"
                )
        if self.params.against is not None and self.params.against == self.params.class_index:
            raise ValueError(
                f"class_margin of class {self.params.against} against itself is always 0"
            )
        return self

    @property
    def count(self) -> int:
        return 1


_KINDS: dict[str, type[Message]] = {
    "class_index": ClassIndexTarget,
    "class_label": ClassLabelTarget,
    "top": TopTarget,
    "reduction": ReductionTarget,
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
    | Annotated[ReductionTarget, Tag("reduction")],
    Discriminator(
        _kind,
        custom_error_type="one_target",
        custom_error_message="a target has exactly one of class_index, class_label, top, reduction",
    ),
]
