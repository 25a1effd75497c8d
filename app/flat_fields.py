"""Flat fields of a form or a query string, as the nested request they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from app.negotiation import refuse_answer_form
from camserve.contracts.options import OutputOptions
from camserve.contracts.requests import ExplanationRequest, InputsRequest
from camserve.contracts.targets import TARGET_KEYS
from camserve.errors import InvalidRequest, TooLarge, near_names, shortened
from camserve.vocabulary import MAX_TARGETS

__all__ = ["REPEATABLE", "URL", "flat_fields", "request_from_fields"]

_KINDS = {"deadline_ms": int, "top": int, "alpha": float, "threshold": float, "color_bar": bool}
_TRUTH = TypeAdapter(bool)
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_LAYERS = "feature_layer"
URL = "url"
REPEATABLE = ("class_index", "class_label", "reduction", "expression", _LAYERS, URL)
_OBJECTS = ("method_options", "evaluate")
_OUTPUT = tuple(OutputOptions.model_fields)
_PARAMS = "params"
_NESTED = ("inputs", "targets", "output")
_WHOLE = "or send a form whose field `request` is the JSON request"
_INSTEAD = {
    "model": "the address names the model",
    "inputs": f"send the files themselves, or url=..., {_WHOLE}",
    "targets": f"give {', '.join(TARGET_KEYS)}, {_WHOLE}",
    "output": f"give its members, as in colormap=jet, {_WHOLE}",
}


@cache
def flat_fields(contract: type[InputsRequest]) -> tuple[str, ...]:
    """The names that a form or a query may give for a request: its own fields, and those that
    stand for what is inside `inputs`, and `targets` and `output` if it has them.

    As the documentation lists them: the model and what to explain first.
    """
    known = contract.model_fields
    own = _own(contract)
    first = tuple(name for name in own if name == "model")
    targets = (*TARGET_KEYS, _PARAMS) if "targets" in known else ()
    rest = tuple(name for name in own if name != "model")
    return (*first, *targets, URL, *rest, *(_OUTPUT if "output" in known else ()))


def _own(contract: type[InputsRequest]) -> tuple[str, ...]:
    """The fields at the top of the request that are flat already."""
    return tuple(name for name in contract.model_fields if name not in _NESTED)


def request_from_fields(
    fields: Iterable[tuple[str, str]], contract: type[InputsRequest] = ExplanationRequest
) -> dict[str, Any]:
    """`model=m&class_index=3&colormap=jet` as `{"model": "m", "targets": [...], "output": {...}}`.

    Classes, reductions, expressions, feature layers and URLs of inputs may be repeated, and indices
    separated by commas; `params` is the JSON object of a reduction's parameters, and
    `method_options` and `evaluate` are JSON objects too. contract: the request that is meant.
    Raises InvalidRequest for an unknown or repeated field, TooLarge.
    """
    known = flat_fields(contract)
    given: dict[str, list[str]] = {}
    for name, value in fields:
        refuse_answer_form({name: value})
        if name not in known:
            raise _unknown(name, known, contract)
        given.setdefault(name, []).append(value)
    for name, values in given.items():
        if len(values) > 1 and name not in REPEATABLE:
            raise InvalidRequest(f"{name} is given {len(values)} times", field=name)
    own = _own(contract)
    document = {name: _value(name, values) for name, values in given.items() if name in own}
    nested = {name: values for name, values in given.items() if name not in own}
    output = {
        name: _of_its_kind(name, values[0]) for name, values in nested.items() if name in _OUTPUT
    }
    if output:
        document["output"] = output
    if URL in nested:
        document["inputs"] = [{"image": {"url": url}} for url in nested[URL]]
    targets = _targets(nested)
    if targets:
        document["targets"] = targets
    return document


def _unknown(name: str, known: Sequence[str], contract: type[InputsRequest]) -> InvalidRequest:
    if name == "model" or (name in _NESTED and name in contract.model_fields):
        return InvalidRequest(f"{name} is no field here: {_INSTEAD[name]}", field=name)
    near = near_names(name, known)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    short = shortened(name)
    return InvalidRequest(f"unknown field {short!r}{hint}", field=short, near=near)


def _value(name: str, values: list[str]) -> Any:
    """Of a top-level field."""
    if name in _OBJECTS:
        return _json_object(name, values[0])
    if name == _LAYERS and len(values) > 1:
        return values
    return _of_its_kind(name, values[0])


def _targets(given: dict[str, list[str]]) -> list[dict[str, Any]]:
    kinds = [name for name in TARGET_KEYS if name in given]
    if len(kinds) > 1:
        raise InvalidRequest(
            f"{' and '.join(kinds)} are both given: a target has exactly one of "
            f"{', '.join(TARGET_KEYS)}",
            field=kinds[1],
        )
    if _PARAMS in given and kinds != ["reduction"]:
        raise InvalidRequest("params go with a reduction", field=_PARAMS)
    match kinds:
        case ["class_index"]:
            count = sum(value.count(",") + 1 for value in given["class_index"])
            if count > MAX_TARGETS:  # before each of what may be millions becomes an object
                raise TooLarge(
                    f"class_index: {count} classes are more than {MAX_TARGETS}: send several "
                    "requests",
                    limit=MAX_TARGETS,
                )
            parts = [part for value in given["class_index"] for part in value.split(",")]
            return [{"class_index": _integer("class_index", part)} for part in parts]
        case ["class_label"]:
            return [{"class_label": label} for label in given["class_label"]]
        case ["top"]:
            return [{"top": _integer("top", given["top"][0])}]
        case ["reduction"]:
            params = _json_object(_PARAMS, given[_PARAMS][0]) if _PARAMS in given else {}
            return [{"reduction": name, "params": params} for name in given["reduction"]]
        case ["expression"]:
            return [{"expression": text} for text in given["expression"]]
        case _:
            return []


def _of_its_kind(name: str, value: str) -> Any:
    kind = _KINDS.get(name)
    if kind is None:
        return value
    if kind is bool:
        return _truth(name, value)
    if kind is int:
        return _integer(name, value)
    try:
        # Python itself would read 1_0, and digits of any script
        return float(value if value.isascii() and "_" not in value else "")
    except ValueError as error:
        raise InvalidRequest(f"{name}: {shortened(value)!r} is not a number", field=name) from error


def _truth(name: str, text: str) -> bool:
    """As FastAPI reads it in a query: true, 1, yes, on, and their opposites."""
    try:
        return _TRUTH.validate_python(text)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: must be true or false", field=name) from error


def _integer(name: str, text: str) -> int:
    try:
        return int(text if _INTEGER.fullmatch(text) else "")
    except ValueError as error:
        raise InvalidRequest(
            f"{name}: {shortened(text)!r} is not a whole number", field=name
        ) from error


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}", field=name) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a JSON object", field=name)
    return value
