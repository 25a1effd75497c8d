"""The keyword arguments of the calls, and the documents and queries that they become."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from pydantic import BaseModel
from pydantic_core import to_json

from camserve.contracts.methods import Evaluate, MethodOptions
from camserve.contracts.options import (
    Colormap,
    Convention,
    Dtype,
    Fusion,
    OutputOptions,
    Upsampling,
    View,
)
from camserve.contracts.reductions import ReductionParameters
from camserve.contracts.requests import Priority
from camserve.contracts.targets import TARGET_KEYS, Target
from camserve.vocabulary import Method, Precision

__all__ = [
    "ExplainArguments",
    "MapArguments",
    "PictureArguments",
    "PredictArguments",
    "cache_headers",
    "explain_document",
    "predict_document",
    "query",
]

_PARAMS = "params"
_NO_CACHE = "no_cache"


class TargetArguments(TypedDict, total=False):
    """What to explain. Several are several maps: classes, labels, the best, reductions,
    expressions, in this order. Without any: the best class."""

    class_index: int | Sequence[int] | None
    class_label: str | Sequence[str] | None
    top: int | None
    reduction: str | Sequence[str] | None
    params: Mapping[str, Any] | ReductionParameters | None  # of the reduction
    expression: str | Sequence[str] | None
    targets: Sequence[Target | Mapping[str, Any]] | None  # as in JSON, instead of the others


class StyleArguments(TypedDict, total=False):
    """How a map is drawn: `camserve.contracts.options.PictureStyle`."""

    view: View | None
    colormap: Colormap | None
    alpha: float | None
    threshold: float | None
    color_bar: bool | None
    scale: Literal["each", "shared"] | None


class InputArguments(TypedDict, total=False):
    """Of the inputs, and of their way through the queue:
    `camserve.contracts.requests.InputsRequest`. no_cache: have it computed afresh, though the
    service knows the result."""

    model: Required[str]
    format: str | None
    precision: Precision | None
    execution: str | None
    priority: Priority | None
    deadline_ms: int | None
    no_cache: bool | None


class PredictArguments(InputArguments, total=False):
    """Of a prediction: `camserve.contracts.requests.PredictionRequest`, and the model."""

    top: int | None


class ExplainArguments(InputArguments, TargetArguments, StyleArguments, total=False):
    """Of an explanation: the fields of `camserve.contracts.requests.ExplanationRequest`, its
    targets and its output by their own names. docs/explaining.md describes them all."""

    method: Method | None
    method_options: Mapping[str, Any] | MethodOptions | None
    feature_layer: str | Sequence[str] | None
    feature_format: str | None
    reduction_layer: str | None
    convention: Convention | None
    upsampling: Upsampling | None
    fusion: Fusion | None
    evaluate: Mapping[str, Any] | Evaluate | None
    webhook: str | None
    map: Literal["link", "list", "npy_base64"] | None
    dtype: Dtype | None
    size: str | int | None


class FinishArguments(TypedDict, total=False):
    """How a map is finished: `camserve.contracts.options.MapOptions`."""

    convention: Convention | None
    upsampling: Upsampling | None
    fusion: Fusion | None
    size: str | int | None


class MapArguments(FinishArguments, total=False):
    """Of a map as an array: `camserve.contracts.options.ArrayOptions`."""

    dtype: Dtype | None


class PictureArguments(FinishArguments, StyleArguments, total=False):
    """Of a picture of a map: `camserve.contracts.options.PictureOptions`."""


def explain_document(urls: Sequence[str], arguments: Mapping[str, Any]) -> bytes:
    """The JSON request, without the inputs that are files.

    A name that this version does not know is sent, too: the service knows whether it has a meaning.
    Raises TypeError for targets that are given in two ways.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    document = {
        name: value
        for name, value in given.items()
        if name not in (*TARGET_KEYS, _PARAMS, "targets", _NO_CACHE, *OutputOptions.model_fields)
    }
    if targets := _targets(given):
        document["targets"] = targets
    output = {name: given[name] for name in OutputOptions.model_fields if name in given}
    if "size" in output:
        output["size"] = str(output["size"])
    if output:
        document["output"] = output
    return _document(urls, document)


def predict_document(urls: Sequence[str], arguments: Mapping[str, Any]) -> bytes:
    """The same of a prediction, whose model is in its address."""
    elsewhere = ("model", _NO_CACHE)
    given = {name: v for name, v in arguments.items() if v is not None and name not in elsewhere}
    return _document(urls, given)


def cache_headers(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What is said of caches in the head of a request."""
    return {"Cache-Control": "no-cache"} if arguments.get(_NO_CACHE) else {}


def _document(urls: Sequence[str], document: dict[str, Any]) -> bytes:
    if urls:
        document["inputs"] = [{"image": {"url": url}} for url in urls]
    return to_json(document, exclude_none=True, fallback=_plain)


def _targets(given: Mapping[str, Any]) -> list[Any]:
    kinds = [name for name in TARGET_KEYS if name in given]
    if _PARAMS in given and "reduction" not in kinds:
        raise TypeError("params go with a reduction")
    if "targets" in given:
        if kinds:
            raise TypeError(f"targets and {kinds[0]} are both given: put all into targets")
        return [_without_defaults(target) for target in given["targets"]]
    found: list[Any] = []
    for kind in kinds:
        for value in _several(given[kind]):
            one = {kind: operator.index(value) if kind in ("class_index", "top") else value}
            if kind == "reduction" and _PARAMS in given:
                one[_PARAMS] = _without_defaults(given[_PARAMS])
            found.append(one)
    return found


def _several(value: Any) -> Sequence[Any]:
    """Of one or several; an array of indices is several."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return (value,)
    return tuple(value)


def _without_defaults(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _plain(value: Any) -> Any:
    """Arrays and numbers of NumPy's, or of torch's, as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def query(arguments: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """As the query of a link: numbers and booleans as JSON writes them; a list is repeated."""
    return {
        name: [_text(one) for one in value] if isinstance(value, list | tuple) else _text(value)
        for name, value in arguments.items()
        if value is not None
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, fallback=_plain).decode()
