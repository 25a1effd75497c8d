"""An explanation as JSON, array, archive or picture, whichever was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import numpy as np
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray

from app.archives import archive
from app.conditional import unless_current
from app.drawing import draw
from app.messages import json_bytes, json_response
from app.negotiation import JSON, NPY, ZIP
from app.presentation import finish_map
from app.representations import explanation
from app.requested import array_options, picture_options
from app.results import Finished, finished
from app.server_timing import server_timing
from app.sizes import Room, check_stackable
from app.state import AppState
from app.submission import picture_name
from camserve.broker import JobRecord, State
from camserve.contracts.explanations import MapArray
from camserve.contracts.options import ArrayOptions, PictureOptions
from camserve.errors import ExplanationNotFound
from camserve.maps.encode import npy_parts
from camserve.tracing import staged

__all__ = [
    "VARY",
    "answer",
    "each",
    "explanation_response",
    "map_response",
    "npy_response",
    "picture_response",
    "snapshot",
]

# on what was negotiated: a cache must not answer one client with the form of another
VARY = {"Vary": "Accept"}
SMALL_BODY: Final = 65_536  # bytes: digested in a tenth of a millisecond


@staged("present")
async def explanation_response(
    state: AppState,
    record: JobRecord,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    request: Request | None = None,
    prepare_s: float | None = None,
) -> Response:
    """The explanation in its present state, with results once it has any.

    request: a conditional GET, which is answered 304 if its client has this state already.
    """
    began_s = time.perf_counter()
    done, body = await _written(state, record)
    timing = server_timing(record, done, began_s=began_s, prepare_s=prepare_s)

    def conditional() -> Response:
        return unless_current(request, body, {**timing, **(headers or {})}, status, form=JSON)

    return conditional() if len(body) <= SMALL_BODY else await asyncio.to_thread(conditional)


async def snapshot(state: AppState, record: JobRecord) -> bytes:
    """The explanation in its present state as JSON, with links to its maps and none of them inside:
    for those who are told of every change."""
    _, body = await _written(state, record, inline=False)
    return body


async def _written(
    state: AppState, record: JobRecord, *, inline: bool = True
) -> tuple[Finished | None, bytes]:
    """The results that the explanation has by now, and its JSON.

    Maps inside may be a million numbers, and take their turn among the pictures. Without any it is
    small: whoever asks how it is must not wait behind photographs.
    """
    record, position = await state.queue.placed(record)
    done = await finished(state, record) if record.state is State.SUCCEEDED else None
    signer = await state.signer()

    def write() -> bytes:
        return json_bytes(
            explanation(record, done, state.settings, signer, position=position, inline=inline)
        )

    if inline and done is not None and done.job.output.map != "link":
        return done, await state.on_pictures(write)
    if done is None or done.is_small:
        return done, write()
    return done, await asyncio.to_thread(write)


@staged("present")
async def map_response(
    state: AppState, done: Finished, number: int, options: ArrayOptions, headers: Mapping[str, str]
) -> Response:
    """One map as JSON. Raises TooLarge."""
    began_s = time.perf_counter()
    room = Room.of_lists(state.settings)

    def make() -> Response:
        one = finish_map(done, number, options, room)
        response = json_response(
            MapArray(
                shape=one.values.shape,
                dtype=options.dtype,
                convention=one.convention,
                reduction_layer=done.result.reduction_layer,
                data=one.values,
            ),
            headers=headers,
        )
        response.headers.update(server_timing(done.record, done, began_s=began_s))
        return response

    return await state.on_pictures(make)


@staged("present")
async def npy_response(
    state: AppState,
    done: Finished,
    numbers: list[int],
    options: ArrayOptions,
    headers: Mapping[str, str],
    *,
    prepare_s: float | None = None,
) -> Response:
    """One map as .npy (h, w), or several of one shape stacked (n, h, w)."""
    began_s = time.perf_counter()
    maps = await _maps(state, done, numbers, options)
    check_stackable(values.shape for values in maps)
    parts = npy_parts(maps)
    length = {"Content-Length": str(sum(len(part) for part in parts))}
    timing = server_timing(done.record, done, began_s=began_s, prepare_s=prepare_s)
    return StreamingResponse(each(parts), 200, {**headers, **length, **timing}, NPY)


async def _maps(
    state: AppState, done: Finished, numbers: list[int], options: ArrayOptions
) -> list[NDArray[np.floating[Any]]]:
    room = Room.of_arrays(state.settings, len(numbers))

    def make() -> list[NDArray[np.floating[Any]]]:
        return [finish_map(done, number, options, room).values for number in numbers]

    return await state.on_pictures(make)


async def each(parts: list[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    """A body that is never put together."""
    for part in parts:
        yield part


@staged("present")
async def _zip_response(
    state: AppState,
    done: Finished,
    headers: Mapping[str, str],
    *,
    request: Request | None = None,
    prepare_s: float | None = None,
) -> Response:
    """All maps of an explanation, of the size that the request asked for, and its JSON, in which
    what became of a webhook may still change: `request` as for the explanation itself."""
    began_s = time.perf_counter()
    signer = await state.signer()
    maps = await _maps(state, done, list(range(len(done.maps))), array_options(done.job))

    def make() -> bytes:
        return archive(json_bytes(explanation(done.record, done, state.settings, signer)), maps)

    body = await state.on_pictures(make)
    name = {"Content-Disposition": f'attachment; filename="{done.record.id}.zip"'}
    timing = server_timing(done.record, done, began_s=began_s, prepare_s=prepare_s)
    return unless_current(request, body, {**headers, **name, **timing}, form=ZIP)


@staged("present")
async def picture_response(
    state: AppState,
    done: Finished,
    numbers: list[int],
    options: PictureOptions,
    headers: Mapping[str, str],
    *,
    form: str,
    prepare_s: float | None = None,
) -> Response:
    """One picture of one result, or a sheet of several. Raises ExplanationNotFound if expired."""
    began_s = time.perf_counter()
    pictures: dict[int, bytes] = {}
    for index in dict.fromkeys(done.result.rows[number].input for number in numbers):
        picture = await state.queue.attachment(done.record.id, picture_name(index))
        if picture is None:
            raise ExplanationNotFound(done.record.id)
        pictures[index] = picture
    limit = state.settings.max_output_megapixels
    body = await state.on_pictures(
        lambda: draw(done, numbers, pictures, options, form=form, max_megapixels=limit)
    )
    timing = server_timing(done.record, done, began_s=began_s, prepare_s=prepare_s)
    return Response(body, 200, {**headers, **timing}, form)


async def answer(
    state: AppState,
    record: JobRecord,
    form: str,
    headers: Mapping[str, str] = VARY,
    *,
    request: Request | None = None,
    prepare_s: float | None = None,
) -> Response:
    """A succeeded explanation in the form that the client asked for with the request.

    request: a conditional GET, of which all but arrays and pictures take notice here.
    """
    if form == JSON:
        return await explanation_response(
            state, record, 200, headers, request=request, prepare_s=prepare_s
        )
    done = await finished(state, record)
    if form == ZIP:
        return await _zip_response(state, done, headers, request=request, prepare_s=prepare_s)
    numbers = list(range(len(done.maps)))
    if form == NPY:
        options = array_options(done.job)
        named = {**headers, "Content-Disposition": f'attachment; filename="{record.id}.npy"'}
        return await npy_response(state, done, numbers, options, named, prepare_s=prepare_s)
    style = picture_options(done.job)
    return await picture_response(
        state, done, numbers, style, headers, form=form, prepare_s=prepare_s
    )
