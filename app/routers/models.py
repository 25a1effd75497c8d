"""Which models there are, and what is known of each."""

from __future__ import annotations

import asyncio
import math

from fastapi import APIRouter, Depends, Request, Response

from app.document_links import LINKS_OF_MODELS
from app.documentation import CACHING, NOT_MODIFIED, header, problems
from app.messages import current_response, json_response
from app.negotiation import JSON
from app.query_strings import refuse_unknown_options
from app.routers.parameters import Name
from app.state import State
from app.summaries import served_card, summary
from camserve.contracts.explanations import LayerList, ModelList, ServedCard

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=[Depends(refuse_unknown_options)]
)


@router.get(
    "",
    summary="List models",
    response_model=ModelList,
    responses={
        200: {
            "description": "All models, in the order of their names.",
            "links": LINKS_OF_MODELS,
            "headers": header(*CACHING),
        },
        304: NOT_MODIFIED,
        **problems(422, 503),
    },
)
async def list_models(request: Request, state: State) -> Response:
    """All models, whether ready, loaded on first use, or unavailable (with the reason): where they
    are resident, how many jobs wait, and how long a batch takes."""
    workers = await state.catalog.workers(fresh=True)
    cards = await state.catalog.cards()
    summaries = await asyncio.gather(*(summary(state, card, workers) for card in cards))
    return current_response(request, ModelList(models=tuple(summaries)))


@router.get(
    "/{model}",
    summary="Model card",
    response_model=ServedCard,
    responses={
        200: {
            "description": "It is resident, or is loaded on first use.",
            "headers": header(*CACHING),
        },
        304: NOT_MODIFIED,
        **problems(404, 422, 503),
        503: {
            "content": {
                JSON: {"schema": {"$ref": "#/components/schemas/ServedCard"}},
                **problems(503)[503]["content"],
            },
            "description": "The card of a model that cannot be used now, and why; or the queue "
            "cannot be reached.",
        },
    },
)
async def read_model(request: Request, model: Name, state: State) -> Response:
    """The whole card: input, labels, layers with shapes and reasons, and whether it is `ready`.

    The status tells that, too: 200 where the model is resident or is loaded on first use, 503 with
    the card where a request would be refused now, with the reason in `problem`.
    """
    card = served_card(await state.catalog.card(model), await state.catalog.workers(fresh=True))
    if card.problem is None:
        return current_response(request, card)
    headers = {}
    if (seconds := card.problem.extensions.get("retry_after_s")) is not None:
        headers["Retry-After"] = str(math.ceil(seconds))
    return json_response(card, 503, headers)


@router.get(
    "/{model}/layers",
    summary="Layers",
    response_model=LayerList,
    responses={
        200: {
            "description": "The layers, best first, and the automatic choice.",
            "headers": header(*CACHING),
        },
        304: NOT_MODIFIED,
        **problems(404, 422, 503),
    },
)
async def list_layers(request: Request, model: Name, state: State) -> Response:
    """The layers that a probe saw: those that can be explained first, the automatic choice on top,
    each with its shape, dimension labels, gradient, and the reason for or against it.

    A model that was not loaded yet has none: explain something with it first.
    """
    card = await state.catalog.card(model)
    ranked = sorted(
        (layer for layer in card.layers if layer.rank is not None), key=lambda one: one.rank or 0
    )
    others = [layer for layer in card.layers if layer.rank is None]
    layers = LayerList(
        model=card.name,
        feature_layer=card.feature_layer,
        feature_reason=card.feature_reason,
        reduction_layer=card.reduction_layer,
        reduction_reason=card.reduction_reason,
        output_format=card.output_format,
        layers=(*ranked, *others),
    )
    return current_response(request, layers)
