"""What pydantic finds wrong with a request, in the words of the request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from camserve.contracts.options import SIZE, SIZE_HELP
from camserve.contracts.reductions import REDUCTION_NAME, REFERENCE_TAGS, REGION_KEYS
from camserve.contracts.requests import EXECUTION, INPUT_KEYS
from camserve.contracts.targets import TARGET_KEYS
from camserve.dimensions import FEATURE_FORMAT, FORMAT
from camserve.errors import InvalidRequest, near_names, shortened

__all__ = ["checked", "invalid_request", "models_in"]

Contract = TypeVar("Contract", bound=BaseModel)


def checked(document: dict[str, Any], contract: type[Contract]) -> Contract:
    """The document as such a message. Raises InvalidRequest with every field that is wrong."""
    try:
        return contract.model_validate(document)
    except ValidationError as error:
        raise invalid_request(error, contract) from error


def invalid_request(
    error: ValidationError | RequestValidationError, *models: type[BaseModel]
) -> InvalidRequest:
    """Pydantic's findings in one sentence, with every field that is wrong.

    models: those whose fields were expected, to tell a misspelt one what it should have been.
    """
    # a misspelt field is the reason why another is missing
    errors = sorted(error.errors(), key=lambda found: found["type"] != _UNKNOWN)
    by_field: dict[str, dict[str, str]] = {}
    for found in errors[:20]:
        finding = _finding(found, models)
        # a list where a single item may stand, too, is not told that it is none
        if finding["field"] not in by_field or found["type"] in ("too_short", "too_long"):
            by_field[finding["field"]] = finding
    # a list with a wrong item is reported as too short, too: the item is what is wrong
    findings = [
        finding
        for field, finding in by_field.items()
        if not any(other.startswith(f"{field}.") for other in by_field)
    ]
    first = findings[0]
    where = f"{first['field']}: " if first["field"] else ""
    return InvalidRequest(f"{where}{first['detail']}", field=first["field"], errors=findings)


_UNION_MEMBER = re.compile(r"\[|constrained-")
# of the unions that are told apart by a tag, behind the field (and index) that holds one
_TAGS = {
    "inputs": INPUT_KEYS,
    "targets": TARGET_KEYS,
    "region": REGION_KEYS,
    "reference": REFERENCE_TAGS,
}
_UNKNOWN, _PATTERN = "extra_forbidden", "string_pattern_mismatch"
_NUMBER, _WHOLE = "must be a number", "must be a whole number"
_BOOLEAN, _OBJECT, _LIST = "must be true or false", "must be an object", "must be a list"
# pydantic's types of errors in the words of people who never heard of it, with its context
_WORDS = {
    "missing": "is required",
    "too_short": "needs at least {min_length}",
    "too_long": "takes at most {max_length}",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dict_type": _OBJECT,
    "string_type": "must be a string",
    "string_too_short": "needs at least {min_length} character(s)",
    "string_too_long": "takes at most {max_length} characters",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


# what a text must be that has to follow a pattern
_PATTERNS = {
    SIZE: f"must be one of {SIZE_HELP}",
    FORMAT: "must be made of the letters B, C, S, T and U, one for each dimension, as in SSC",
    FEATURE_FORMAT: "must be made of the letters B, C, S, T and U, one for each dimension, as in "
    "BSSC; of tokens with their grid, as in BTC:14x14",
    EXECUTION: "must be one of auto, cpu, cuda, or a GPU as in cuda:1",
    REDUCTION_NAME: "must be a name of small letters, digits and _",
}


def _known_fields(models: Sequence[type[BaseModel]], location: Sequence[str]) -> set[str]:
    """Names of the fields at `location`, whichever member of a union is meant there."""
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [one for field in fields for one in models_in(field.annotation)] or models
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models of a type, whichever of them a value may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _finding(found: Any, models: Sequence[type[BaseModel]]) -> dict[str, str]:
    location = [str(part) for part in found["loc"]]
    if location and location[0] in {"body", "query", "path", "header"}:
        # a parameter that may be repeated has a name, and no index
        repeated = location[0] == "query" and len(location) > 2 and location[-1].isdigit()
        location = location[1:-1] if repeated else location[1:]
    location = _without_tags(location)
    if found["type"] != _UNKNOWN:  # and its members: targets.0.class_index.tuple[...]
        location = [part for part in location if not _UNION_MEMBER.search(part)]
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == _UNKNOWN:
        message = _unknown_field(location[-1], _known_fields(models, location[:-1]))
    elif found["type"] == _PATTERN:
        message = _PATTERNS.get(found.get("ctx", {}).get("pattern", ""), message)
    elif found["type"] in _WORDS:
        message = _WORDS[found["type"]].format_map(found.get("ctx", {}))
    return {"field": ".".join(map(shortened, location)), "detail": message}


def _without_tags(location: list[str]) -> list[str]:
    """Pydantic names the tag of a union's member, too: targets.0.top.top is targets.0.top."""
    kept: list[str] = []
    holder, is_tag = "", False
    for number, part in enumerate(location, 1):
        is_tag = not is_tag and number < len(location) and part in _TAGS.get(holder, ())
        if is_tag:
            continue
        kept.append(part)
        holder = holder if part.isdigit() else part
    return kept


def _unknown_field(name: str, known: set[str]) -> str:
    if name in known:  # of another member of the union
        return f"{name} does not go with the other fields here"
    near = near_names(name, known)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown field {shortened(name)!r}{hint}"
