"""What a card says, held against what its source and its network say."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from camserve.contracts.input_specs import InputSpec, PictureSpec, TensorSpec
from camserve.engine import ModelReport
from camserve.engine.expressions import evaluate
from camserve.errors import InvalidCard, InvalidExpression
from camserve.expressions import parse
from workers.repository import Entry

__all__ = ["check_reductions", "input_spec"]

_SPEC: TypeAdapter[InputSpec] = TypeAdapter(InputSpec)
_OF_TENSORS = set(TensorSpec.model_fields) - set(PictureSpec.model_fields)
_OF_PICTURES = set(PictureSpec.model_fields) - set(TensorSpec.model_fields)


def input_spec(entry: Entry, known: dict[str, Any]) -> InputSpec:
    """What the source knows, overridden by what the card says. Raises InvalidCard.

    A card that gives a shape makes an array of what its source took for a picture, and one that
    gives height, width or colours the reverse.
    """
    asked = entry.card.input
    tensor, picture = _OF_TENSORS & set(asked), _OF_PICTURES & set(asked)
    if tensor and picture:
        raise InvalidCard(
            f"model {entry.name!r}: input.{min(tensor)} is for arrays and input.{min(picture)} for "
            "pictures: leave one out"
        )
    if tensor:
        known = {name: value for name, value in known.items() if name not in _OF_PICTURES}
    elif picture:
        known = {name: value for name, value in known.items() if name not in _OF_TENSORS}
    fields = {**known, **asked}
    fields["kind"] = "tensor" if _OF_TENSORS & set(fields) else "picture"
    if fields["kind"] == "picture" and not {"height", "width"} <= set(fields):
        missing = [name for name in ("height", "width") if name not in fields]
        raise InvalidCard(
            f"model {entry.name!r}: the card's [input] must give {' and '.join(missing)} of a "
            "picture, or format and shape of another array, which the source does not fix"
        )
    try:
        return _SPEC.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:])) or "input"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidCard(f"model {entry.name!r}, input.{field}: {message}") from error


def check_reductions(entry: Entry, report: ModelReport) -> None:
    """Raises InvalidCard for an expression that has no value for any output of this shape."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(_score_shape(report), generator=generator) + 0.1
    for name, text in entry.card.reductions.items():
        failures = []
        for x in (positive, -positive):  # a logarithm, say, has a value for one of them only
            try:
                evaluate(parse(text), x)
            except InvalidExpression as error:
                failures.append(error)
        if len(failures) == 2:
            raise InvalidCard(
                f"model {entry.name!r}, reductions.{name}: {failures[0]}"
            ) from failures[0]


def _score_shape(report: ModelReport) -> list[int]:
    """Of one output, (C, *D): without the batch, and with the classes first."""
    letters = report.output_format.replace("B", "")
    sizes = list(report.output_shape)
    if "C" not in letters:
        return [1, *sizes]
    return [sizes.pop(letters.index("C")), *sizes]
