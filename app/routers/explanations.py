"""Create, read and cancel explanations."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import WithJsonSchema

from app.answers import VARY, answer, explanation_response
from app.body_documentation import GRAY_PICTURE, flat_query, request_body
from app.cache_status import cache_status
from app.conditional import etag_of_view, is_current, is_named, not_modified, unchanging
from app.document_links import EVENT, LINKS_OF_EXPLANATION
from app.documentation import CACHING, NOT_MODIFIED, binary, header, problems
from app.events import event_stream
from app.guard import caller_name
from app.handing_in import Submission
from app.head_requests import is_head
from app.negotiation import (
    JSON,
    NPY,
    PICTURES,
    SHORT_NAMES,
    ZIP,
    choose_form,
    parse_prefer,
)
from app.outcomes import answering, outcome
from app.query_strings import refuse_unknown_options
from app.representations import explanation_href
from app.results import fetch, fetch_succeeded
from app.routers.parameters import CacheControl, ExplanationId, IdempotencyKey, Prefer
from app.state import AppState, State
from app.submission import submit
from app.uploads import read_request
from camserve.contracts.explanations import Explanation
from camserve.contracts.jobs import Caching
from camserve.contracts.options import ArrayOptions
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import ExplanationNotFound

__all__ = ["router"]

router = APIRouter(prefix="/v1/explanations", tags=["explanations"])

FORMS = (JSON, NPY, ZIP, *PICTURES)


@router.post(
    "",
    summary="Explain",
    response_model=Explanation,
    responses={
        200: {
            "content": binary(*FORMS[1:]),
            "description": "Done, in the form that was asked for.",
            "links": LINKS_OF_EXPLANATION,
            "headers": header(
                "Location", *CACHING, "Cache-Status", "Server-Timing", "Content-Disposition"
            ),
        },
        202: {
            "model": Explanation,
            "description": "Accepted; `Location` says where to look.",
            "links": LINKS_OF_EXPLANATION,
            "headers": header("Location", "Preference-Applied", *CACHING, "Server-Timing"),
        },
        **problems(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": request_body(
            ExplanationRequest,
            {
                "model": "shapes",
                "inputs": [GRAY_PICTURE],
                "targets": [{"class_label": "star"}],
            },
        ),
        "parameters": flat_query(ExplanationRequest),
    },
)
async def explain(
    request: Request,
    state: State,
    *,
    idempotency_key: IdempotencyKey,
    caching: CacheControl,
    as_form: Annotated[
        str | None,
        Query(alias="as", description="Form of the answer; wins over Accept."),
        WithJsonSchema({"type": "string", "enum": list(SHORT_NAMES)}),
    ] = None,
    prefer: Prefer = None,
) -> Response:
    """Explain one or more inputs for one or more targets.

    Send JSON, a form (`-F model=shapes -F input=@cat.jpg`), or the raw file with the options in
    the query string. The answer is JSON with links (default), the maps (`application/x-npy`), both
    in one file (`application/zip`) or the overlays (`image/png`). Waits for the result up to the
    server's limit; after that, or with `Prefer: respond-async`, answers 202 with a `Location`. Who
    hangs up while it waits cancels it, unless it has an `Idempotency-Key` or a `webhook`.
    """
    form = choose_form(request.headers.getlist("accept"), as_form, FORMS)
    preference = parse_prefer(prefer or [])
    submission = await _submitted(request, state, form, idempotency_key, caching)
    prepare_s = asyncio.get_running_loop().time() - submission.arrived_s
    patience_s = preference.patience_s(state.settings.sync_wait_s)
    record = await outcome(state, request, submission, patience_s)
    headers = {"Location": explanation_href(record.id)}
    if not record.is_terminal:
        if applied := preference.applied(state.settings.sync_wait_s):
            headers["Preference-Applied"] = applied
        return await explanation_response(state, record, 202, headers, prepare_s=prepare_s)
    with answering(record):
        response = await answer(state, record, form, prepare_s=prepare_s)
    response.headers.update(headers | cache_status(record))
    return response


async def _submitted(
    request: Request,
    state: AppState,
    form: str,
    idempotency_key: str | None,
    caching: Caching,
) -> Submission:
    """The job of the request. What it was made of is not kept for the time of the wait."""
    arrival = await read_request(request, state.settings, ExplanationRequest, state.on_pictures)
    return await submit(
        state,
        arrival,
        form=form,
        idempotency_key=idempotency_key,
        owner=caller_name(request),
        request_id=request.state.request_id,
        caching=caching,
    )


@router.get(
    "/{explanation_id}",
    dependencies=[Depends(refuse_unknown_options)],
    summary="Read",
    response_model=Explanation,
    responses={
        200: {
            "content": binary(NPY, ZIP),
            "description": "The explanation, or its maps.",
            "headers": header(*CACHING, "Server-Timing", "Content-Disposition"),
        },
        304: NOT_MODIFIED,
        **problems(404, 406, 409, 413, 422, 500, 503, 504),
    },
)
async def read_explanation(
    request: Request,
    explanation_id: ExplanationId,
    state: State,
    as_form: Annotated[
        str | None,
        Query(alias="as", description="Form of the answer; wins over Accept."),
        WithJsonSchema({"type": "string", "enum": ["json", "npy", "zip"]}),
    ] = None,
) -> Response:
    """The explanation in its present state, with its results once it has succeeded.

    As `application/zip` or `application/x-npy` all its maps, as an answer to the request itself
    would have given them; they are there once it has succeeded.
    """
    form = choose_form(request.headers.getlist("accept"), as_form, (JSON, NPY, ZIP))
    if form == JSON:
        record = await fetch(state, explanation_id)
        return await explanation_response(state, record, headers=VARY, request=request)
    record = await fetch_succeeded(state, explanation_id)
    if form == ZIP:
        return await answer(state, record, form, request=request)
    etag = etag_of_view(state.settings, record.id, None, ArrayOptions(), form)
    headers = unchanging(state.settings, etag)
    if is_named(request, etag):
        return not_modified(headers)
    response = await answer(state, record, form, headers)
    return not_modified(headers) if is_current(request, etag) else response


@router.get(
    "/{explanation_id}/events",
    dependencies=[Depends(refuse_unknown_options)],
    summary="Follow",
    response_class=Response,  # with its own class, FastAPI would write the events
    responses={
        200: {
            "content": {"text/event-stream": {"schema": EVENT}},
            "description": "The explanation, whenever it changes.",
        },
        204: {"description": "`Last-Event-ID` is that of the last event: nothing more will come."},
        **problems(404, 422, 503),
    },
)
async def follow_explanation(
    request: Request,
    explanation_id: ExplanationId,
    state: State,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="Id of the event that was seen last; a browser sends it.",
        ),
        WithJsonSchema({"type": "string"}),
    ] = None,
) -> Response:
    """Server-sent events: the state, the place in the queue, the progress, and at last the results.

    Each event holds the whole explanation as JSON, with links to its maps; the stream ends with the
    last one. With `Last-Event-ID`, what was seen is not sent again.
    """
    record = await fetch(state, explanation_id)
    return await event_stream(state, record, last_event_id, head=is_head(request.scope))


@router.delete(
    "/{explanation_id}",
    dependencies=[Depends(refuse_unknown_options)],
    summary="Cancel",
    response_model=Explanation,
    responses={
        200: {
            "description": "The explanation as it is after that.",
            "headers": header(*CACHING, "Server-Timing"),
        },
        **problems(404, 422, 503),
    },
)
async def cancel_explanation(explanation_id: ExplanationId, state: State) -> Response:
    """Cancel what is queued, ask a running one to stop, leave a finished one as it is.

    Answers with the explanation as it then is; safe to repeat.
    """
    await fetch(state, explanation_id)
    record = await state.queue.cancel(explanation_id)
    if record is None:
        raise ExplanationNotFound(explanation_id)
    return await explanation_response(state, record)
