"""What the operator of the service tells its workers."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from app.documentation import header, problems
from app.messages import json_response
from app.model_commands import carried_out
from app.negotiation import parse_prefer
from app.query_strings import refuse_unknown_options
from app.routers.parameters import Name, Prefer
from app.state import AppState, State
from app.summaries import model_href, summary
from camserve.broker import CommandKind
from camserve.contracts.explanations import ModelSummary

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/models", tags=["administration"], dependencies=[Depends(refuse_unknown_options)]
)

_UNFINISHED = {
    "model": ModelSummary,
    "description": "Told to all workers, and not done by all of them yet; `Location` tells.",
    "headers": header("Location", "Preference-Applied"),
}


@router.post(
    "/{model}/load",
    summary="Load",
    response_model=ModelSummary,
    responses={
        200: {"description": "Resident on every live worker that serves it."},
        202: _UNFINISHED,
        **problems(404, 422, 503),
    },
)
async def load_model(model: Name, state: State, prefer: Prefer = None) -> Response:
    """Make a model resident on every live worker that serves it, so that nobody waits for a load.

    Safe to repeat. One that failed to load before is tried again at once. What exceeds the memory
    budget of a worker evicts what was least recently used there.
    """
    return await _told(state, "load", model, prefer)


@router.post(
    "/{model}/unload",
    summary="Unload",
    response_model=ModelSummary,
    responses={
        200: {"description": "Resident nowhere."},
        202: _UNFINISHED,
        **problems(404, 422, 503),
    },
)
async def unload_model(model: Name, state: State, prefer: Prefer = None) -> Response:
    """Free the memory of a model on every live worker, once what runs with it there has ended.

    Safe to repeat. No job is lost: one that waits, or comes later, has the model loaded again, and
    so does a worker that starts.
    """
    return await _told(state, "unload", model, prefer)


async def _told(
    state: AppState, kind: CommandKind, model: str, prefer: list[str] | None
) -> Response:
    preference = parse_prefer(prefer or [])
    limit_s = state.settings.sync_wait_s
    wait_s = preference.patience_s(limit_s)
    card = await state.catalog.card(model)
    done = await carried_out(state, kind, card, limit_s if wait_s is None else wait_s)
    card = await state.catalog.card(model)  # a load completes it
    message = await summary(state, card, await state.catalog.workers(fresh=True))
    if done:
        return json_response(message)
    headers = {"Location": model_href(model)}
    if applied := preference.applied(limit_s):
        headers["Preference-Applied"] = applied
    return json_response(message, 202, headers)
