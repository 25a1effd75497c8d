"""The parameters of named reductions, as they cross the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from camserve.contracts.base import Message
from camserve.vocabulary import REDUCTIONS

__all__ = [
    "REDUCTION_NAME",
    "REFERENCE_TAGS",
    "REGION_KEYS",
    "Box",
    "Index",
    "Mask",
    "MaskFile",
    "Point",
    "ReductionParameters",
    "Reference",
    "Region",
    "check_parameters",
]

REDUCTION_NAME = r"^[a-z][a-z0-9_]{0,39}$"

Index = Annotated[int, Field(ge=0, strict=True)]
Coordinate = Annotated[float, Field(ge=0, le=1_000_000)]


class Box(Message):
    """A box on the input's own grid, ends excluded."""

    box: Annotated[tuple[Coordinate, ...], Field(min_length=2, max_length=6)] = Field(
        description="[left, top, right, bottom] of a picture, in pixels as the file stores them; "
        "[start, end] of a sequence; the starts of all axes and then the ends otherwise.",
        examples=[[40, 20, 120, 90]],
    )


class Point(Message):
    """A position on the input's own grid."""

    point: Annotated[tuple[Coordinate, ...], Field(min_length=1, max_length=3)] = Field(
        description="[x, y] of a picture, in pixels as the file stores them; otherwise one number "
        "an axis.",
        examples=[[80, 55]],
    )


class MaskFile(Message):
    base64: str = Field(
        description="A picture file (what is not black counts; of JPEG and WebP, which are lossy, "
        "what is nearer to white) or a .npy file (what is not 0), of the input's own size; "
        "base64-encoded."
    )


class Mask(Message):
    """Any positions of the input's own grid."""

    mask: MaskFile


_NAMES = ("predicted", "all")
_KINDS: dict[str, type[Message]] = {"box": Box, "point": Point, "mask": Mask}
REGION_KEYS = tuple(_KINDS)


def _kind(value: object) -> str | None:
    """Which kind of region this is; None if it is none, or several."""
    if isinstance(value, dict):
        present = [key for key in REGION_KEYS if key in value]
        return present[0] if len(present) == 1 else None
    if value in _NAMES:
        return "name"
    return next((key for key, kind in _KINDS.items() if isinstance(value, kind)), None)


Region = Annotated[
    Annotated[Literal["predicted", "all"], Tag("name")]
    | Annotated[Box, Tag("box")]
    | Annotated[Point, Tag("point")]
    | Annotated[Mask, Tag("mask")],
    Discriminator(
        _kind,
        custom_error_type="one_region",
        custom_error_message="a region is 'predicted', 'all', or an object with exactly one of "
        f"{', '.join(REGION_KEYS)}",
    ),
]


class Reference(Message):
    """The output for another input of this request."""

    input: Index


Vector = Annotated[tuple[float, ...], Field(min_length=1, max_length=65_536, fail_fast=True)]
REFERENCE_TAGS = ("numbers", "other")


def _kind_of_reference(value: object) -> str | None:
    if isinstance(value, list | tuple):
        return "numbers"
    return "other" if isinstance(value, dict | Reference) else None


AnyReference = Annotated[
    Annotated[Vector, Tag("numbers")] | Annotated[Reference, Tag("other")],
    Discriminator(
        _kind_of_reference,
        custom_error_type="one_reference",
        custom_error_message='a reference is a list of numbers, or another input: {"input": 1}',
    ),
]


class ReductionParameters(Message):
    """Parameters of a named reduction; which of them it takes depends on the reduction."""

    class_index: Index | None = None
    against: Index | None = None
    index: Index | None = None
    region: Region | None = Field(
        None,
        description="Which pixels of a dense output count: those `predicted` as the class "
        "(default), `all`, or what a box, a point or a mask holds.",
    )
    reference: AnyReference | None = Field(
        None,
        description="What to compare the output with: a list of numbers, or the output for another "
        "input of this request.",
    )


def check_parameters(reduction: str, params: ReductionParameters) -> None:
    """Raises ValueError for what a built-in reduction misses, or has no use for.

    Whether a model card knows another name is seen when the card is.
    """
    takes = REDUCTIONS.get(reduction)
    if takes is None:
        return
    allowed = (*takes.required, *takes.optional)
    for name in ReductionParameters.model_fields:
        given = getattr(params, name) is not None
        if name in takes.required and not given:
            raise ValueError(f"reduction {reduction!r} needs params.{name}")
        if given and name not in allowed:
            raise ValueError(
                f"reduction {reduction!r} does not take params.{name}: it takes "
                f"{' and '.join(allowed) or 'no parameters'}"
            )
    if params.against is not None and params.against == params.class_index:
        raise ValueError(f"class_margin of class {params.against} against itself is always 0")
