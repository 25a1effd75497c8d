"""The maps and pictures of an explanation: any size and style, at no device cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from app.answers import map_response, npy_response, picture_response
from app.conditional import etag_of_view, is_current, is_named, not_modified, unchanging
from app.documentation import CACHING, NOT_MODIFIED, binary, header, problems
from app.negotiation import JSON, NPY, PICTURES, choose_form
from app.query_strings import refuse_repeated_options
from app.results import Finished, fetch_succeeded, finished
from app.routers.parameters import ExplanationId
from app.state import AppState, State
from camserve.contracts.explanations import MapArray
from camserve.contracts.options import ArrayOptions, MapOptions, PictureOptions

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/explanations/{explanation_id}/results/{number}",
    tags=["results"],
    dependencies=[Depends(refuse_repeated_options)],
)

# what the view may be refused for, and what the explanation may have failed with
NO_RESULT = (404, 406, 409, 413, 422, 500, 503, 504)
Number = Annotated[int, Path(ge=0, description="Index into the explanation's results.")]


class MapQuery(ArrayOptions):
    as_form: str | None = Field(
        None,
        alias="as",
        description="Form of the answer; wins over Accept.",
        json_schema_extra={"enum": ["npy", "json"]},
    )


class PictureQuery(PictureOptions):
    as_form: str | None = Field(
        None,
        alias="as",
        description="Form of the answer; wins over Accept.",
        json_schema_extra={"enum": ["png", "jpeg", "jpg", "webp"]},
    )


@router.get(
    "/map",
    summary="Map",
    response_class=Response,
    responses={
        200: {
            "model": MapArray,
            "content": binary(NPY),
            "description": "The finished map.",
            "headers": header(*CACHING, "Server-Timing", "Content-Disposition"),
        },
        304: NOT_MODIFIED,
        **problems(*NO_RESULT),
    },
)
async def read_map(
    request: Request,
    explanation_id: ExplanationId,
    number: Number,
    state: State,
    query: Annotated[MapQuery, Query()],
) -> Response:
    """The finished map as `.npy` (default) or JSON, registered to the upload's pixel grid."""
    form = choose_form(request.headers.getlist("accept"), query.as_form, (NPY, JSON))
    options = ArrayOptions(**query.model_dump(exclude={"as_form"}))
    view = _View(explanation_id, number, options, form)

    async def make(done: Finished, headers: dict[str, str]) -> Response:
        if form == JSON:
            return await map_response(state, done, number, options, headers)
        name = f'attachment; filename="{explanation_id}-{number}.npy"'
        named = headers | {"Content-Disposition": name}
        return await npy_response(state, done, [number], options, named)

    return await _unless_known(request, state, view, make)


@router.get(
    "/overlay",
    summary="Overlay",
    response_class=Response,
    responses={
        200: {
            "content": binary(*PICTURES),
            "description": "The picture.",
            "headers": header(*CACHING, "Server-Timing"),
        },
        304: NOT_MODIFIED,
        **problems(*NO_RESULT),
    },
)
async def read_overlay(
    request: Request,
    explanation_id: ExplanationId,
    number: Number,
    state: State,
    query: Annotated[PictureQuery, Query()],
) -> Response:
    """The map drawn over the upload, as PNG (default), JPEG or WebP: made for `<img src>`."""
    form = choose_form(request.headers.getlist("accept"), query.as_form, PICTURES)
    options = PictureOptions(**query.model_dump(exclude={"as_form"}))
    view = _View(explanation_id, number, options, form)

    async def make(done: Finished, headers: dict[str, str]) -> Response:
        return await picture_response(state, done, [number], options, headers, form=form)

    return await _unless_known(request, state, view, make)


class _View(NamedTuple):
    """What determines a map or a picture."""

    explanation_id: str
    number: int
    options: MapOptions
    form: str


async def _unless_known(
    request: Request,
    state: AppState,
    view: _View,
    make: Callable[[Finished, dict[str, str]], Awaitable[Response]],
) -> Response:
    """The view, or 304 for a client that has it: without making it, if it names its very tag."""
    record = await fetch_succeeded(state, view.explanation_id)
    etag = etag_of_view(state.settings, record.id, view.number, view.options, view.form)
    headers = unchanging(state.settings, etag)
    if is_named(request, etag):
        return not_modified(headers)
    done = await finished(state, record)
    done.check_row(view.number)
    response = await make(done, headers)
    return not_modified(headers) if is_current(request, etag) else response
