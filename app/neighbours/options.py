"""`parameters` of another protocol, as the options of our request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from app.flat_fields import request_from_fields
from camserve.contracts.requests import ExplanationRequest, InputsRequest, PredictionRequest
from camserve.errors import InvalidRequest, shortened

__all__ = ["options_document", "options_of_prediction"]

_PARAMETERS: Final = "parameters"
_NESTED: Final = ("targets", "output")
_ELSEWHERE: Final = {
    "model": "the address names the model",
    "inputs": "they stand beside the parameters",
    "url": 'it is an input: an instance {"image": {"url": "..."}}',
    "as": "this protocol has one form of answer",
}


def options_document(
    parameters: dict[str, Any], contract: type[InputsRequest] = ExplanationRequest
) -> dict[str, Any]:
    """The JSON of our request, which is a `contract`, without model and inputs.

    Nested as `POST /v1/explanations` takes it, or flat as a form does, with numbers as numbers and
    several values as a list: `{"class_index": [3, 5], "colormap": "jet"}`. Null is not given.
    Raises InvalidRequest for an unknown name, or one that is given twice.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    for name, reason in _ELSEWHERE.items():
        if name in given:
            raise InvalidRequest(
                f"{_PARAMETERS}.{name} has no meaning: {reason}", field=f"{_PARAMETERS}.{name}"
            )
    nested = {
        name: value
        for name, value in given.items()
        if name in contract.model_fields and (name in _NESTED or isinstance(value, dict))
    }
    rest = [(name, value) for name, value in given.items() if name not in nested]
    flat = request_from_fields(
        [(name, text) for name, value in rest for text in _texts(name, value)], contract
    )
    output, flat_output = nested.get("output"), flat.pop("output", None)
    if flat_output is not None:
        if isinstance(output, dict):
            _refuse_both(output.keys() & flat_output.keys())
            flat_output = output | flat_output
        elif output is not None:
            return nested | flat  # which is refused for that
        nested["output"] = flat_output
    _refuse_both(nested.keys() & flat.keys())
    return nested | flat


def options_of_prediction(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those of a request for the model's raw output. Raises InvalidRequest."""
    document = options_document(parameters, PredictionRequest)
    if "top" in document:
        raise InvalidRequest(
            "top has no meaning here: the answer is all that the model returns; POST "
            "/v1/models/{model}/predict ranks the classes",
            field=f"{_PARAMETERS}.top",
        )
    return document


def _texts(name: str, value: Any) -> Iterable[str]:
    """A value as the fields of a form, of which a list is several."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InvalidRequest(f"{shortened(name)}: an empty list", field=shortened(name))
    if any(isinstance(one, list) for one in values):
        raise InvalidRequest(
            f"{shortened(name)}: a value, or a list of values, is meant", field=shortened(name)
        )
    try:
        return [one if isinstance(one, str) else orjson.dumps(one).decode() for one in values]
    except orjson.JSONEncodeError as error:  # of what it read: nested deeper than it writes
        raise InvalidRequest(
            f"{shortened(name)}: nested too deep for any value", field=shortened(name)
        ) from error


def _refuse_both(names: set[str]) -> None:
    for name in sorted(names):
        raise InvalidRequest(f"{name} is given twice, flat and nested: leave one out", field=name)
