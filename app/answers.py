"""An explanation as JSON, array or picture, whichever was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import numpy as np
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from pydantic import BaseModel

from app.drawing import draw
from app.negotiation import JSON, NPY
from app.presentation import finish_map
from app.representations import explanation
from app.requested import array_options, picture_options
from app.results import Finished, finished
from app.sizes import Room, check_stackable
from app.state import AppState
from app.submission import picture_name
from camserve.broker import JobRecord, State
from camserve.contracts.explanations import MapArray
from camserve.contracts.options import MapOptions, PictureOptions
from camserve.errors import ExplanationNotFound
from camserve.maps.encode import npy_parts

__all__ = [
    "VARY",
    "answer",
    "as_pictures",
    "explanation_response",
    "json_response",
    "map_response",
    "npy_response",
]

# on what was negotiated: a cache must not answer one client with the form of another
VARY = {"Vary": "Accept"}


def json_response(
    message: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A message as JSON; arrays in it are written as they are, number by number in orjson."""
    body = orjson.dumps(message.model_dump(), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
    return Response(body, status, headers, media_type=JSON)


async def explanation_response(
    state: AppState,
    record: JobRecord,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The explanation in its present state, with results once it has any."""
    done = await finished(state, record) if record.state is State.SUCCEEDED else None
    card = await state.catalog.find(record.model) if done else None
    # in a thread: it may hold maps of a million numbers
    return await state.on_pictures(
        lambda: json_response(explanation(record, done, card, state.settings), status, headers)
    )


async def map_response(
    state: AppState, done: Finished, number: int, options: MapOptions
) -> Response:
    """One map as JSON. Raises TooLarge."""
    room = Room.of_lists(state.settings)

    def make() -> Response:
        one = finish_map(done, number, options, room)
        return json_response(
            MapArray(
                shape=one.values.shape,
                convention=one.convention,
                reduction_layer=done.result.reduction_layer,
                data=one.values,
            ),
            headers=VARY,
        )

    return await state.on_pictures(make)


async def npy_response(
    state: AppState,
    done: Finished,
    numbers: list[int],
    options: MapOptions,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One map as .npy (h, w) float32, or several of one shape stacked (n, h, w)."""
    room = Room.of_arrays(state.settings, len(numbers))

    def make() -> list[NDArray[np.float32]]:
        return [finish_map(done, number, options, room).values for number in numbers]

    maps = await state.on_pictures(make)
    check_stackable(values.shape for values in maps)
    parts = npy_parts(maps)
    length = {"Content-Length": str(sum(len(part) for part in parts))}
    return StreamingResponse(_each(parts), 200, {**VARY, **length, **(headers or {})}, NPY)


async def _each(parts: list[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    for part in parts:
        yield part


async def as_pictures(
    state: AppState, done: Finished, numbers: list[int], options: PictureOptions, form: str
) -> bytes:
    """One picture of one result, or a sheet of several. Raises ExplanationNotFound if expired."""
    pictures: dict[int, bytes] = {}
    for index in dict.fromkeys(done.result.rows[number].input for number in numbers):
        picture = await state.queue.attachment(done.record.id, picture_name(index))
        if picture is None:
            raise ExplanationNotFound(done.record.id)
        pictures[index] = picture
    limit = state.settings.max_output_megapixels
    return await state.on_pictures(
        lambda: draw(done, numbers, pictures, options, form=form, max_megapixels=limit)
    )


async def answer(state: AppState, record: JobRecord, form: str) -> Response:
    """A succeeded explanation in the form that the client asked for with the request."""
    if form == JSON:
        return await explanation_response(state, record, headers=VARY)
    done = await finished(state, record)
    numbers = list(range(len(done.maps)))
    if form == NPY:
        return await npy_response(state, done, numbers, array_options(done.job))
    body = await as_pictures(state, done, numbers, picture_options(done.job), form)
    return Response(body, media_type=form, headers=VARY)
