"""Jobs that were given up, for the operator."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from app.dead_letters import letter_href, letter_message, replayed
from app.documentation import CACHING, NOT_MODIFIED, header, problems
from app.messages import current_response, json_response
from app.negotiation import JSON
from app.query_strings import refuse_repeated_options, refuse_unknown_options
from app.routers.listing import MOST, check_cursor, next_page
from app.state import State
from camserve.broker import LetterPage
from camserve.contracts.base import Message
from camserve.contracts.dead_letters import DeadLetter, DeadLetterList, Purged
from camserve.vocabulary import MODEL_NAME

__all__ = ["router"]

router = APIRouter(prefix="/v1/dead-letters", tags=["administration"])

LetterId = Annotated[str, Path(description="The `id` of the dead letter.")]

_EXAMPLE: Final[dict[str, Any]] = {
    "id": "01JD8Q4V1N0Z7M3K5T9W2XACBE-shapes",
    "kind": "explain",
    "model": "shapes",
    "model_version": "6f1a0c6be1f4",
    "reason": "its worker died in each of 2 attempts",
    "input_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "replay_of": None,
    "priority": "interactive",
    "execution": "auto",
    "attempts": [
        {
            "worker": "gpu-1-cuda:0-5e1f0a2b",
            "started_at": "2025-11-20T10:15:02.110Z",
            "ended_at": "2025-11-20T10:15:02.480Z",
            "ended_by": "death",
        },
        {
            "worker": "gpu-1-cuda:0-90cc1d7e",
            "started_at": "2025-11-20T10:15:06.031Z",
            "ended_at": "2025-11-20T10:15:06.377Z",
            "ended_by": "death",
        },
    ],
    "created_at": "2025-11-20T10:15:02.101Z",
    "died_at": "2025-11-20T10:15:10.254Z",
    "replayable_until": "2025-11-20T11:15:10.254Z",
    "replay": None,
    "href": "/v1/dead-letters/01JD8Q4V1N0Z7M3K5T9W2XACBE-shapes",
}


class ModelQuery(Message):
    model: Annotated[str, Field(pattern=f"^{MODEL_NAME}$")] | None = Field(
        None, description="Only those of this model, which need not be there any more."
    )


class LettersQuery(ModelQuery):
    """Which dead letters, and how many of them."""

    limit: Annotated[int, Field(ge=1, le=MOST)] = Field(
        20, description="How many, at most; a page may hold fewer."
    )
    cursor: str | None = Field(None, description="`next_cursor` of the page before this one.")


@router.get(
    "",
    dependencies=[Depends(refuse_repeated_options)],
    summary="List dead letters",
    response_model=DeadLetterList,
    responses={
        200: {
            "description": "A page of them, and where the next one is.",
            "headers": header("Link", *CACHING),
            "content": {JSON: {"example": {"dead_letters": [_EXAMPLE], "next_cursor": None}}},
        },
        304: NOT_MODIFIED,
        **problems(422, 503),
    },
)
async def list_dead_letters(
    request: Request, state: State, query: Annotated[LettersQuery, Query()]
) -> Response:
    """Jobs that were given up because their worker was lost in every attempt, the newest first.

    Each tells which workers it took, when and how, and the digest of its input, by which jobs of
    the same input are known. Kept are the newest `CAMSERVE_DEAD_LETTERS` of each model, for
    `CAMSERVE_DEAD_LETTER_TTL_S`.
    """
    if query.cursor is not None:
        check_cursor(query.cursor)
    page = await state.dead_letters.page(query.limit, model=query.model, cursor=query.cursor)
    # in a thread: a hundred documents of many inputs take a while to read
    return await asyncio.to_thread(_listed, request, page)


def _listed(request: Request, page: LetterPage) -> Response:
    letters = tuple(letter_message(letter) for letter in page.letters)
    message = DeadLetterList(dead_letters=letters, next_cursor=page.cursor)
    return current_response(request, message, next_page(request, page.cursor))


@router.delete(
    "",
    dependencies=[Depends(refuse_repeated_options)],
    summary="Purge dead letters",
    response_model=Purged,
    response_description="How many there were.",
    responses=problems(422, 503),
)
async def purge_dead_letters(state: State, query: Annotated[ModelQuery, Query()]) -> Response:
    """Forget all dead letters, or those of one model, with the inputs that are kept for a replay.

    What became of the jobs stays as it is. Safe to repeat.
    """
    return json_response(Purged(purged=await state.dead_letters.purge(query.model)))


@router.get(
    "/{letter_id}",
    dependencies=[Depends(refuse_unknown_options)],
    summary="Dead letter",
    response_model=DeadLetter,
    responses={
        200: {
            "description": "The dead letter, and how its replay is.",
            "headers": header(*CACHING),
            "content": {JSON: {"example": _EXAMPLE}},
        },
        304: NOT_MODIFIED,
        **problems(404, 422, 503),
    },
)
async def read_dead_letter(request: Request, letter_id: LetterId, state: State) -> Response:
    """One dead letter; of one that was replayed, `replay.state` tells whether that is cured."""
    return current_response(request, letter_message(await state.dead_letters.get(letter_id)))


@router.delete(
    "/{letter_id}",
    dependencies=[Depends(refuse_unknown_options)],
    summary="Remove a dead letter",
    response_model=Purged,
    response_description="Whether there was one: 1 or 0.",
    responses=problems(404, 422, 503),
)
async def remove_dead_letter(letter_id: LetterId, state: State) -> Response:
    """Forget one dead letter, with the input that is kept for a replay. Safe to repeat."""
    return json_response(Purged(purged=await state.dead_letters.remove(letter_id)))


@router.post(
    "/{letter_id}/replay",
    dependencies=[Depends(refuse_unknown_options)],
    status_code=202,
    summary="Replay a dead letter",
    response_model=DeadLetter,
    responses={
        202: {
            "description": "In the queue again, as a new job, which `replay` names.",
            "headers": header("Location"),
        },
        **problems(404, 409, 422, 429, 503),
    },
)
async def replay_dead_letter(request: Request, letter_id: LetterId, state: State) -> Response:
    """Have a job that was given up done again, by the model as it is now.

    It becomes a new job with the same input, options, priority and time to its deadline; what was
    given up stays so. `Location` is the new explanation; of a prediction it is the dead letter,
    whose `replay.state` tells how it goes. While a replay is open, another one is the same. It can
    be done until `replayable_until`.
    """
    letter = await replayed(state, letter_id, request.state.request_id)
    message = letter_message(letter)
    where = message.replay.explanation if message.replay else None
    return json_response(message, 202, {"Location": where or letter_href(letter_id)})
