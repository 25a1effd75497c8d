"""Answers of the Open Inference Protocol: tensors in JSON, or as bytes behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from fastapi import Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray

from app.answers import each
from app.messages import json_bytes, json_response
from app.neighbours.v2_metadata import EXPLAIN_OUTPUTS
from app.neighbours.v2_requests import HEADER
from app.neighbours.v2_tensors import DTYPES, datatype_of, joined_files
from app.prediction import Predicted
from app.prediction_answers import check_room, stacked
from app.presentation import finish_map
from app.representations import explanation_href
from app.requested import array_options
from app.results import Finished
from app.sizes import Room, check_stackable
from camserve.contracts.open_inference import Datatype, InferenceResponse, OutputTensor
from camserve.settings import Settings

__all__ = [
    "OCTETS",
    "Head",
    "Tensor",
    "explanation_head",
    "explanation_tensors",
    "inference_response",
    "prediction_head",
    "prediction_tensors",
]

OCTETS = "application/octet-stream"


class Head(NamedTuple):
    """What an answer says besides its tensors."""

    id: str
    model: str
    model_version: str
    parameters: dict[str, Any]


class Tensor(NamedTuple):
    """values: an array of the datatype's own kind; of BYTES the texts."""

    datatype: Datatype
    values: NDArray[Any] | list[str]


def explanation_head(done: Finished, asked_id: str | None) -> Head:
    job, result = done.job, done.result
    return Head(
        asked_id or done.record.id,
        job.model,
        job.model_version,
        {
            "explanation": explanation_href(done.record.id),
            # parameters are scalars
            "feature_layer": ",".join(result.feature_layers),
            "reduction_layer": result.reduction_layer,
            "method": job.method,
            "convention": job.convention,
        },
    )


def prediction_head(done: Predicted, asked_id: str | None) -> Head:
    labels = done.result.output_format
    parameters = {"output_format": labels} if labels else {}
    return Head(asked_id or done.record.id, done.card.name, done.result.model_version, parameters)


def prediction_tensors(
    done: Predicted, settings: Settings, chosen: Mapping[str, bool]
) -> dict[str, Tensor]:
    """What the model returned, a row for each input. Raises TooLarge, InvalidRequest for rows that
    cannot be stacked. Runs in a thread."""
    if not all(chosen.values()):
        check_room(done, settings, "ask for binary data")
    return {name: Tensor("FP32", stacked(done.outputs)) for name in chosen}


def explanation_tensors(
    done: Finished, settings: Settings, chosen: Mapping[str, bool]
) -> dict[str, Tensor]:
    """The chosen tensors of an explanation, a row for each of its results. Runs in a thread.

    chosen: by name, whether it goes as bytes, of which there may be more than of numbers in JSON.
    Raises TooLarge, and InvalidRequest for maps that cannot be stacked.
    """
    return {name: _tensor(name, done, settings, as_bytes=chosen[name]) for name in chosen}


def _tensor(name: str, done: Finished, settings: Settings, *, as_bytes: bool) -> Tensor:
    rows = done.result.rows
    datatype = EXPLAIN_OUTPUTS[name]
    match name:
        case "map":
            maps = _maps(done, settings, as_bytes=as_bytes)
            return Tensor(datatype_of(maps.dtype), maps)
        case "score":
            values: list[Any] = [np.nan if row.score is None else row.score for row in rows]
        case "class_index":
            values = [-1 if row.class_index is None else row.class_index for row in rows]
        case "input_index":
            values = [row.input for row in rows]
        case _:
            return Tensor(datatype, [row.class_label or "" for row in rows])
    return Tensor(datatype, np.asarray(values, DTYPES[datatype]))


def _maps(done: Finished, settings: Settings, *, as_bytes: bool) -> NDArray[np.floating[Any]]:
    count = len(done.maps)
    room = Room.of_arrays(settings, count) if as_bytes else Room.of_lists(settings, count)
    options = array_options(done.job)
    maps = [finish_map(done, number, options, room).values for number in range(count)]
    check_stackable(values.shape for values in maps)
    return np.stack(maps)


def inference_response(
    head: Head, tensors: Mapping[str, Tensor], chosen: Mapping[str, bool]
) -> Response:
    """The answer with `tensors`, each in the form that was chosen for it. Runs in a thread."""
    outputs: list[OutputTensor] = []
    binary: list[bytes | memoryview] = []
    for name, tensor in tensors.items():
        if chosen[name]:
            data = _bytes_of(tensor)
            binary.append(data)
            form: dict[str, Any] = {"parameters": {"binary_data_size": len(data)}}
        else:
            form = {
                "data": tensor.values if isinstance(tensor.values, list) else tensor.values.ravel()
            }
        outputs.append(
            OutputTensor(name=name, datatype=tensor.datatype, shape=np.shape(tensor.values), **form)
        )
    message = InferenceResponse(
        id=head.id,
        model_name=head.model,
        model_version=head.model_version,
        parameters=head.parameters,
        outputs=tuple(outputs),
    )
    address = head.parameters.get("explanation")
    location = {} if address is None else {"Location": address}
    if not binary:
        return json_response(message, headers=location)
    text = json_bytes(message)
    parts = [text, *binary]
    length = str(sum(map(len, parts)))
    headers = {HEADER: str(len(text)), "Content-Length": length, **location}
    return StreamingResponse(each(parts), 200, headers, OCTETS)


def _bytes_of(tensor: Tensor) -> bytes | memoryview:
    if isinstance(tensor.values, list):
        return joined_files([text.encode() for text in tensor.values])
    return np.ascontiguousarray(tensor.values).data.cast("B")
