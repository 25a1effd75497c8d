"""The body of an Open Inference Protocol call: JSON, with tensors in it or as bytes behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.counts import check_inputs
from app.documents import Upload, check_breadth, parse_document
from app.findings import checked
from app.neighbours.options import options_document, options_of_prediction
from app.neighbours.v2_tensors import from_bytes, from_list
from app.uploads import Read, assembled
from camserve.contracts.open_inference import InferenceRequest, InputTensor
from camserve.contracts.requests import ExplanationRequest, PredictionRequest
from camserve.errors import InvalidRequest, MalformedRequest, near_names, shortened
from camserve.settings import Settings

__all__ = [
    "HEADER",
    "Asked",
    "explanation_request",
    "json_length",
    "prediction_request",
    "read_inference",
]

HEADER: Final = "Inference-Header-Content-Length"
_BINARY_SIZE: Final = "binary_data_size"
_BINARY_OUTPUT: Final = "binary_data_output"
_BINARY: Final = "binary_data"
_NUMBER = re.compile(r"[0-9]{1,18}")
# the second is how MLServer's clients repeat what the datatype says
_INPUT_PARAMETERS: Final = (_BINARY_SIZE, "content_type")
_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True)
class Asked:
    """options: those of our request, flat or nested. outputs: the tensors to answer with, each
    with whether as bytes; None for all of them, as bytes if `is_binary`."""

    id: str | None
    options: dict[str, Any]
    uploads: list[Upload]
    outputs: dict[str, bool] | None
    is_binary: bool

    def chosen(self, known: Sequence[str]) -> dict[str, bool]:
        """The outputs to answer with, of those `known`. Raises InvalidRequest for any other."""
        if self.outputs is None:
            return dict.fromkeys(known, self.is_binary)
        for name in self.outputs:
            if name not in known:
                raise InvalidRequest(
                    f"there is no output {shortened(name)!r} here: there are {', '.join(known)}",
                    field="outputs",
                    near=near_names(name, known),
                )
        return self.outputs


def json_length(given: Sequence[str] | None, body: bytes) -> int:
    """How many bytes of the body are JSON: all, unless the header says so.

    given: all values of the header. Raises MalformedRequest.
    """
    if not given:
        return len(body)
    if len(given) > 1 or not _NUMBER.fullmatch(given[0].strip()):
        raise MalformedRequest(f"{HEADER} must be one number, the bytes of JSON in the body")
    length = int(given[0])
    if length > len(body):
        raise MalformedRequest(
            f"{HEADER} is {length}, and the body has {len(body)} bytes: send the whole body"
        )
    return length


def read_inference(model: str, body: bytes, length: int, settings: Settings) -> Asked:
    """The request in a body whose first `length` bytes are JSON. Runs in a thread.

    Raises MalformedRequest, InvalidRequest, InvalidInput, TooLarge.
    """
    asked = _validated(body[:length])
    if asked.model_name not in (None, "", model):
        raise InvalidRequest(
            f"model_name is {shortened(asked.model_name)!r}, and the address names {model!r}",
            field="model_name",
        )
    options = dict(asked.parameters)
    is_binary = _flag(options.pop(_BINARY_OUTPUT, False), f"parameters.{_BINARY_OUTPUT}")
    options = _in_our_words(options)
    labels = options.get("format")
    has_batch_label = isinstance(labels, str) and "B" in labels
    uploads = _uploads(asked.inputs, body[length:], settings, whole=has_batch_label)
    return Asked(asked.id, options, uploads, _outputs(asked, is_binary=is_binary), is_binary)


def explanation_request(model: str, asked: Asked, settings: Settings) -> Read[ExplanationRequest]:
    """Raises InvalidRequest, TooLarge, UnreadableImage."""
    document = options_document(asked.options)
    output = document.get("output")
    if isinstance(output, dict) and "map" in output:
        raise InvalidRequest(
            "parameters.map has no meaning here: the map is an output, in JSON or as bytes",
            field="parameters.map",
        )
    return assembled(document | {"model": model}, asked.uploads, settings, ExplanationRequest)


def prediction_request(asked: Asked, settings: Settings) -> Read[PredictionRequest]:
    """Raises InvalidRequest, TooLarge, UnreadableImage."""
    document = options_of_prediction(asked.options)
    return assembled(document, asked.uploads, settings, PredictionRequest)


def _validated(text: bytes) -> InferenceRequest:
    document = parse_document(text)
    check_breadth(document)
    return checked(document, InferenceRequest)


def _in_our_words(parameters: dict[str, Any]) -> dict[str, Any]:
    """Triton's `timeout` and `priority` as ours. Raises InvalidRequest, also for sequences."""
    options = dict(parameters)
    for name in _SEQUENCE:
        if options.pop(name, None):
            raise InvalidRequest(
                f"parameters.{name}: no model here keeps a state between requests: leave it out",
                field=f"parameters.{name}",
            )
    timeout_us = options.pop("timeout", None)
    if timeout_us is not None:
        if type(timeout_us) is not int or timeout_us < 1:
            raise InvalidRequest(
                "parameters.timeout must be a whole number of microseconds, at least 1",
                field="parameters.timeout",
            )
        options.setdefault("deadline_ms", math.ceil(timeout_us / 1000))
    if type(priority := options.get("priority")) is int:
        # Triton counts from 1, the most urgent; 0 is its default
        options["priority"] = "interactive" if priority <= 1 else "bulk"
    return options


def _outputs(asked: InferenceRequest, *, is_binary: bool) -> dict[str, bool] | None:
    if not asked.outputs:
        return None
    outputs: dict[str, bool] = {}
    for number, output in enumerate(asked.outputs):
        field = f"outputs.{number}"
        if output.name in outputs:
            raise InvalidRequest(f"{field}: there are two of this name", field=f"{field}.name")
        for name in output.parameters:
            if name != _BINARY:
                raise InvalidRequest(
                    f"{field}: unknown parameter {shortened(name)!r}", field=f"{field}.parameters"
                )
        flag = output.parameters.get(_BINARY, is_binary)
        outputs[output.name] = _flag(flag, f"{field}.parameters.{_BINARY}")
    return outputs


def _flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field} must be true or false", field=field)
    return value


def _uploads(
    inputs: Sequence[InputTensor], binary: bytes, settings: Settings, *, whole: bool
) -> list[Upload]:
    """All inputs of the model, in order. Every byte behind the JSON belongs to one tensor.

    whole: the dimension of a batch is labelled, and need not be the first.
    """
    uploads: list[Upload] = []
    at = 0
    names: set[str] = set()
    for number, tensor in enumerate(inputs):
        field = f"inputs.{number}"
        if tensor.name in names:
            raise InvalidRequest(f"{field}: there are two of this name", field=f"{field}.name")
        names.add(tensor.name)
        is_files = tensor.datatype == "BYTES"
        if is_files or not whole:  # before any is made: a shape costs nothing to write
            each = math.prod(tensor.shape) if is_files else tensor.shape[0]
            check_inputs(len(uploads) + each, settings)
        size = _binary_size(tensor, field)
        if size is None:
            values = from_list(tensor.data or [], tensor.shape, tensor.datatype, field)
        else:
            if size > len(binary) - at:
                raise MalformedRequest(
                    f"{field}: {_BINARY_SIZE} is {size}, and behind the JSON {len(binary) - at} "
                    f"bytes are left; {HEADER} says where the JSON ends"
                )
            data = binary[at : at + size]
            values = from_bytes(data, tensor.shape, tensor.datatype, field)
            at += size
        is_pixels = tensor.datatype == "UINT8"
        if whole and not isinstance(values, list):
            uploads.append(Upload(values, is_pixels=is_pixels))
        else:
            uploads += [Upload(one, is_pixels=is_pixels) for one in values]
    if at != len(binary):
        raise MalformedRequest(
            f"{len(binary) - at} bytes behind the JSON belong to no input: {HEADER} says where the "
            f"JSON ends, and {_BINARY_SIZE} how many are each input's"
        )
    return uploads


def _binary_size(tensor: InputTensor, field: str) -> int | None:
    """How many bytes the tensor has behind the JSON; None if its data is in the JSON."""
    for name in tensor.parameters:
        if name.startswith("shared_memory"):
            raise InvalidRequest(
                f"{field}: this service reads no shared memory: send the data itself",
                field=f"{field}.parameters",
            )
        if name not in _INPUT_PARAMETERS:
            raise InvalidRequest(
                f"{field}: unknown parameter {shortened(name)!r}", field=f"{field}.parameters"
            )
    size = tensor.parameters.get(_BINARY_SIZE)
    if (size is None) == (tensor.data is None):
        raise InvalidRequest(
            f"{field}: exactly one of data, parameters.{_BINARY_SIZE} is needed", field=field
        )
    if size is None:
        return None
    if type(size) is not int or size < 1:
        raise InvalidRequest(
            f"{field}: {_BINARY_SIZE} must be a whole number of bytes, at least 1",
            field=f"{field}.parameters.{_BINARY_SIZE}",
        )
    return size
