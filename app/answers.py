"""An explanation as JSON, array or picture, whichever was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import orjson
from fastapi import Response
from pydantic import BaseModel

from app.negotiation import JSON, NPY
from app.presentation import draw, finish_map
from app.representations import explanation
from app.results import Finished, finished
from app.state import AppState
from app.submission import picture_name
from camserve.broker import JobRecord, State
from camserve.contracts.explanations import Explanation
from camserve.contracts.options import MapOptions, PictureOptions, PictureStyle
from camserve.errors import ExplanationNotFound, InvalidRequest
from camserve.maps.encode import npy_bytes

__all__ = ["answer", "as_explanation", "as_maps", "as_pictures", "json_response"]


def json_response(
    message: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A message as JSON; orjson, because a map in it may hold a million numbers."""
    body = orjson.dumps(message.model_dump(mode="json"))
    return Response(body, status, headers, media_type=JSON)


async def as_explanation(state: AppState, record: JobRecord) -> Explanation:
    """The explanation in its present state, with results once it has any."""
    done = await finished(state, record) if record.state is State.SUCCEEDED else None
    cards = {card.name: card for card in await state.catalog.cards()} if done else {}
    limit = state.settings.max_output_megapixels
    return await asyncio.to_thread(explanation, record, done, cards.get(record.model), limit)


async def as_maps(
    state: AppState, done: Finished, numbers: list[int], options: MapOptions
) -> bytes:
    """One map as .npy (h, w) float32, or several of one shape stacked (n, h, w)."""
    limit = state.settings.max_output_megapixels

    def make() -> bytes:
        maps = [finish_map(done, number, options, limit).values for number in numbers]
        if len({values.shape for values in maps}) > 1:
            raise InvalidRequest(
                "the maps differ in shape and cannot be stacked: fetch them one by one, or give a "
                "size", field="size",
            )  # fmt: skip
        return npy_bytes(maps[0] if len(maps) == 1 else np.stack(maps))

    return await asyncio.to_thread(make)


async def as_pictures(
    state: AppState, done: Finished, numbers: list[int], options: PictureOptions, form: str
) -> bytes:
    """One picture of one result, or a sheet of several. Raises ExplanationNotFound if expired."""
    pictures = []
    for number in numbers:
        name = picture_name(done.result.rows[number].input)
        picture = await state.queue.attachment(done.record.id, name)
        if picture is None:
            raise ExplanationNotFound(done.record.id)
        pictures.append(picture)
    return await asyncio.to_thread(
        draw,
        done,
        numbers,
        pictures,
        options,
        form=form,
        max_megapixels=state.settings.max_output_megapixels,
    )


async def answer(state: AppState, record: JobRecord, form: str) -> Response:
    """A succeeded explanation in the form that the client asked for with the request."""
    if form == JSON:
        return json_response(await as_explanation(state, record))
    done = await finished(state, record)
    output = done.job.output
    numbers = list(range(len(done.maps)))
    if form == NPY:
        body = await as_maps(state, done, numbers, MapOptions(size=output.size))
    else:
        style = output.model_dump(include=set(PictureStyle.model_fields))
        options = PictureOptions(**style, size=output.size)
        body = await as_pictures(state, done, numbers, options, form)
    return Response(body, media_type=form)
