"""The body of a KServe V1 call: instances in all the shapes in which KServe's users send them."""

from __future__ import annotations

import re
from typing import Any, Final

from app.counts import check_inputs
from app.documents import Asked, check_breadth, parse_document
from app.findings import checked
from app.neighbours.options import options_document, options_of_prediction
from app.uploads import Read, assembled
from camserve.contracts.kserve import InstancesRequest
from camserve.contracts.requests import INPUT_KEYS, ExplanationRequest, PredictionRequest
from camserve.errors import InvalidRequest
from camserve.settings import Settings

__all__ = ["explanation_request", "prediction_request"]

_BASE64: Final = ("b64", "base64")
_URL: Final = ("url", "image_url")
# how custom predictors, TF-serving's exported signatures and TorchServe call the picture
_PICTURE: Final = ("image", "image_bytes", "data")
_INPUT = re.compile(r"\binputs(?=\.\d)")
_SHAPES: Final = (
    'an instance is a picture, {"b64": "..."}, a tensor as nested lists of numbers, or an input as '
    "POST /v1/explanations takes it"
)


def explanation_request(model: str, body: bytes, settings: Settings) -> Read[ExplanationRequest]:
    """The request and its inputs. Its answer lists the numbers of the maps, unless it says how.

    Raises MalformedRequest, InvalidRequest, TooLarge, and what an upload may be refused for. Runs
    in a thread.
    """
    asked = _validated(body)
    document = options_document(asked.parameters)
    output = document.get("output", {})
    if isinstance(output, dict):
        document["output"] = {"map": "list"} | output
    return _with_inputs(asked, document | {"model": model}, settings, ExplanationRequest)


def prediction_request(body: bytes, settings: Settings) -> Read[PredictionRequest]:
    """The same for the model's own answer, which is all that it returns."""
    asked = _validated(body)
    document = options_of_prediction(asked.parameters)
    return _with_inputs(asked, document, settings, PredictionRequest)


def _with_inputs(
    asked: InstancesRequest, document: dict[str, Any], settings: Settings, contract: type[Asked]
) -> Read[Asked]:
    check_inputs(len(asked.instances), settings)  # before each becomes several objects of ours
    document["inputs"] = [_input(number, one) for number, one in enumerate(asked.instances)]
    try:
        return assembled(document, [], settings, contract)
    except InvalidRequest as error:
        _rename(error)
        raise


def _validated(body: bytes) -> InstancesRequest:
    document = parse_document(body)
    check_breadth({name: value for name, value in document.items() if name != "instances"})
    return checked(document, InstancesRequest)


def _input(number: int, instance: Any) -> dict[str, Any]:
    """An instance as an input of our request, which checks what is in it."""
    if isinstance(instance, list):
        return _tensor(instance)
    known = dict.fromkeys((*_BASE64, *_URL, *_PICTURE, *INPUT_KEYS))
    names = [name for name in known if name in instance] if isinstance(instance, dict) else []
    if len(names) != 1:
        raise InvalidRequest(f"instances.{number}: {_SHAPES}", field=f"instances.{number}")
    (name,) = names
    others = {other: one for other, one in instance.items() if other != name}
    return _named(name, instance[name]) | others


def _tensor(numbers: list[Any]) -> dict[str, Any]:
    return {"tensor": {"data": numbers}}


def _named(name: str, value: Any) -> dict[str, Any]:
    """The one member that says what the instance is, as our request has it."""
    if name in _URL:
        return {"image": {"url": value}}
    if name in _BASE64 or (name in _PICTURE and isinstance(value, str)):
        return {"image": {"base64": value}}
    if name == "data" and isinstance(value, list):
        return _tensor(value)
    if name not in _PICTURE:
        return {name: value}
    if isinstance(value, dict) and "b64" in value and "base64" not in value:
        value = {("base64" if key == "b64" else key): one for key, one in value.items()}
    return {"image": value}


def _rename(error: InvalidRequest) -> None:
    """What our request calls inputs are instances here."""
    error.args = (_INPUT.sub("instances", str(error)),)
    if isinstance(field := error.extensions.get("field"), str):
        error.extensions["field"] = _INPUT.sub("instances", field)
    for finding in error.extensions.get("errors", ()):
        finding["field"] = _INPUT.sub("instances", finding["field"])
