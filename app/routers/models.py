"""Which models there are, and what is known of each."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.answers import json_response
from app.documentation import problems
from app.state import AppState, State
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.explanations import LayerList, ModelList, ModelSummary

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])

Name = Annotated[str, Path(description="Name of the model.", examples=["shapes"])]


@router.get("", summary="List models", response_model=ModelList, responses=problems(503))
async def list_models(state: State) -> Response:
    """All models, whether ready, loaded on first use, or unavailable (with the reason)."""
    workers = await state.catalog.workers()
    cards = await state.catalog.cards()
    summaries = await asyncio.gather(*(_summary(state, card, workers) for card in cards))
    return json_response(ModelList(models=tuple(summaries)))


@router.get(
    "/{model}", summary="Model card", response_model=ResolvedCard, responses=problems(404, 503)
)
async def read_model(model: Name, state: State) -> Response:
    """The whole card: input, labels, layers with shapes and reasons."""
    return json_response(await state.catalog.card(model))


@router.get(
    "/{model}/layers", summary="Layers", response_model=LayerList, responses=problems(404, 503)
)
async def list_layers(model: Name, state: State) -> Response:
    """The layers that a probe saw: those that can be explained first, the automatic choice on top,
    each with its shape, dimension labels, gradient, and the reason for or against it.

    A model that was not loaded yet has none: explain something with it first.
    """
    card = await state.catalog.card(model)
    ranked = sorted(
        (layer for layer in card.layers if layer.rank is not None), key=lambda one: one.rank or 0
    )
    others = [layer for layer in card.layers if layer.rank is None]
    return json_response(
        LayerList(
            model=card.name,
            feature_layer=card.feature_layer,
            feature_reason=card.feature_reason,
            reduction_layer=card.reduction_layer,
            reduction_reason=card.reduction_reason,
            output_format=card.output_format,
            layers=(*ranked, *others),
        )
    )


async def _summary(
    state: AppState, card: ResolvedCard, workers: tuple[WorkerStatus, ...]
) -> ModelSummary:
    serving = [worker for worker in workers if card.name in worker.models]
    return ModelSummary(
        name=card.name,
        title=card.title,
        description=card.description,
        task=card.task,
        state=card.state,
        problem=card.problem,
        classes=card.classes,
        input=card.input,
        feature_layer=card.feature_layer,
        workers=len(serving),
        resident_on=tuple(w.device for w in serving if card.name in w.resident),
        queue_depth=await state.queue.depth(card.name),
        href=f"/v1/models/{card.name}",
    )
