"""The model repository extension of the Open Inference Protocol, as Triton's client asks it."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.documentation import problems
from app.documents import check_breadth, parse_document
from app.findings import checked
from app.messages import json_response
from app.model_commands import carried_out
from app.neighbours.documentation import json_body
from app.neighbours.v2_metadata import model_status
from app.routers.parameters import Name
from app.state import AppState, State
from app.summaries import model_href, served_card
from app.uploads import read_body
from camserve.broker import CommandKind
from camserve.contracts.open_inference import (
    ModelLoaded,
    ModelUnloaded,
    RepositoryIndex,
    RepositoryLoad,
    RepositoryQuery,
    RepositoryUnload,
)
from camserve.errors import EmptyBody, InvalidRequest, WaitExceeded

__all__ = ["router"]

router = APIRouter(prefix="/v2/repository", tags=["Open Inference V2"])
Asked = TypeVar("Asked", bound=BaseModel)


@router.post(
    "/index",
    summary="Repository index",
    response_description="A line for each model.",
    response_model=RepositoryIndex,
    responses=problems(400, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": json_body(RepositoryQuery, {"ready": True}, required=False)},
)
async def repository_index(request: Request, state: State) -> Response:
    """All models and their states, as Triton lists them; with `{"ready": true}` the ready ones.

    Ready is what is resident or is loaded on first use, for which `reason` says so.
    """
    asked = await _asked(request, state, RepositoryQuery)
    workers = await state.catalog.workers(fresh=True)
    cards = [served_card(card, workers) for card in await state.catalog.cards()]
    lines = [model_status(card) for card in cards if card.ready or not asked.ready]
    return json_response(RepositoryIndex(tuple(lines)))


@router.post(
    "/models/{model}/load",
    summary="Load (Open Inference)",
    response_description="Resident on every live worker that serves it.",
    response_model=ModelLoaded,
    responses=problems(400, 404, 408, 413, 415, 422, 503, 504),
    openapi_extra={"requestBody": json_body(RepositoryLoad, {}, required=False)},
)
async def repository_load(request: Request, model: Name, state: State) -> Response:
    """Make a model resident on every live worker that serves it, as `POST /v1/models/{model}/load`.

    Models are what the workers' repository holds: a `config` or files in the request are refused.
    """
    asked = await _asked(request, state, RepositoryLoad)
    if asked.parameters:
        raise InvalidRequest(
            "a model is loaded as it lies in the workers' repository: leave the parameters out",
            field="parameters",
        )
    await _carried_out(state, "load", model)
    return json_response(ModelLoaded(name=model))


@router.post(
    "/models/{model}/unload",
    summary="Unload (Open Inference)",
    response_description="Resident nowhere.",
    response_model=ModelUnloaded,
    responses=problems(400, 404, 408, 413, 415, 422, 503, 504),
    openapi_extra={"requestBody": json_body(RepositoryUnload, {}, required=False)},
)
async def repository_unload(request: Request, model: Name, state: State) -> Response:
    """Free the memory of a model on every live worker, as `POST /v1/models/{model}/unload`.

    A request that comes later has it loaded again.
    """
    await _asked(request, state, RepositoryUnload)
    await _carried_out(state, "unload", model)
    return json_response(ModelUnloaded(name=model))


async def _carried_out(state: AppState, kind: CommandKind, model: str) -> None:
    wait_s = state.settings.sync_wait_s
    card = await state.catalog.card(model)
    if not await carried_out(state, kind, card, wait_s):
        href = model_href(model)
        raise WaitExceeded(wait_s, f"GET {href} tells how far it is", model=href)


async def _asked(request: Request, state: AppState, contract: type[Asked]) -> Asked:
    """The body, which may be missing."""
    try:
        body = await read_body(request, state.settings)
    except EmptyBody:
        return contract()
    document = parse_document(body)
    check_breadth(document)
    return checked(document, contract)
