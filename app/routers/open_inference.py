"""The Open Inference Protocol V2: is the server there, which models has it, what do they take?"""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from app.documentation import problems
from app.messages import json_response
from app.neighbours.v2_metadata import EXTENSIONS, model_metadata
from app.routers.parameters import Name
from app.state import State
from app.stopping import Stage
from app.summaries import served_card
from camserve import __version__
from camserve.contracts.open_inference import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerModels,
    ServerReady,
)
from camserve.errors import NoWorker, ShuttingDown, UnknownName, shortened

__all__ = ["check_version", "router"]

router = APIRouter(prefix="/v2", tags=["Open Inference V2"])


async def check_version(request: Request, state: State) -> None:
    """Of an address with a version, which must be the present one. Raises UnknownName."""
    version = request.path_params.get("version")
    if version is None:
        return
    card = await state.catalog.card(request.path_params["model"])
    if version != card.version:
        raise UnknownName(
            f"model {card.name!r} has no version {shortened(version)!r}, only {card.version!r}: "
            "leave the version out",
            versions=[card.version],
        )


@router.get(
    "",
    summary="Server metadata",
    response_model=ServerMetadata,
    response_description="The server and what it knows of the protocol.",
)
async def server_metadata() -> Response:
    """Name, version and extensions of the server."""
    return json_response(
        ServerMetadata(name="camserve", version=__version__, extensions=EXTENSIONS)
    )


@router.get(
    "/health/live", summary="Server live", response_model=ServerLive, response_description="It is."
)
async def server_live() -> Response:
    """200 as long as the process answers at all, as `/livez`."""
    return json_response(ServerLive(live=True))


@router.get(
    "/health/ready",
    summary="Server ready",
    response_model=ServerReady,
    response_description="It can explain something now.",
    responses=problems(503),
)
async def server_ready(state: State) -> Response:
    """200 if a live worker has run its warm-up explanation lately, and this front end is not being
    stopped, as `/readyz`."""
    if state.stopping.has_reached(Stage.LEAVING):
        raise ShuttingDown
    if not await state.catalog.proven_workers():
        raise NoWorker(None)
    return json_response(ServerReady(ready=True))


@router.get(
    "/models",
    summary="Names of models",
    response_model=ServerModels,
    response_description="All names, whether ready or not.",
    responses=problems(503),
)
async def server_models(state: State) -> Response:
    """The names of all models, as KServe lists them; `GET /v1/models` says more."""
    cards = await state.catalog.cards()
    return json_response(ServerModels(models=tuple(card.name for card in cards)))


@router.get(
    "/models/{model}",
    summary="Model metadata",
    response_description="What it takes and returns.",
    response_model=ModelMetadata,
    responses=problems(404, 503),
    dependencies=[Depends(check_version)],
)
@router.get(
    "/models/{model}/versions/{version}",
    include_in_schema=False,
    dependencies=[Depends(check_version)],
)
async def open_inference_metadata(model: Name, state: State) -> Response:
    """The tensors that the model takes and gives.

    `input` is its real one, numbers ready for the network; `alternatives` lists what the service
    turns into them: pixels (UINT8) and picture files (BYTES). A model that is loaded on first use
    has no tensors before.
    """
    return json_response(model_metadata(await state.catalog.card(model)))


@router.get(
    "/models/{model}/ready",
    summary="Model ready",
    response_description="It can be used now.",
    response_model=ModelReady,
    responses=problems(404, 503),
    dependencies=[Depends(check_version)],
)
@router.get(
    "/models/{model}/versions/{version}/ready",
    include_in_schema=False,
    dependencies=[Depends(check_version)],
)
async def open_inference_ready(model: Name, state: State) -> Response:
    """200 where the model is resident or is loaded on first use; 503, with the reason, where a
    request would be refused now."""
    card = await state.catalog.card(model)
    served = served_card(card, await state.catalog.workers(fresh=True))
    if served.problem is not None:
        raise served.problem.to_error()
    return json_response(ModelReady(name=model, ready=True))
