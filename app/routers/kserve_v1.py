"""KServe's V1 protocol beside our own API: `POST /v1/models/{model}:explain`."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from app.abandonment import unless_abandoned
from app.body_documentation import GRAY_PIXEL
from app.cache_status import cache_status
from app.documentation import header, problems
from app.messages import json_response
from app.negotiation import JSON
from app.neighbours.documentation import json_body
from app.neighbours.explaining import explained
from app.neighbours.v1_instances import explanation_request, prediction_request
from app.prediction import predicted
from app.prediction_answers import check_room
from app.representations import explanation
from app.routers.parameters import CacheControl, IdempotencyKey, Name
from app.state import State
from app.uploads import Arrival, now_s, read_body
from camserve.contracts.kserve import Explanations, InstancesRequest, Predictions

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["KServe V1"])

_EXAMPLE: dict[str, Any] = {
    "instances": [{"b64": GRAY_PIXEL}],
    "parameters": {"class_label": "star", "size": "feature"},
}


@router.post(
    "/{model}:explain",
    summary="Explain (KServe V1)",
    response_model=Explanations,
    responses={
        200: {
            "description": "One entry for each map.",
            "headers": header("Location", "Cache-Status"),
        },
        **problems(400, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": json_body(InstancesRequest, _EXAMPLE)},
)
async def kserve_explain(
    request: Request,
    model: Name,
    state: State,
    idempotency_key: IdempotencyKey,
    caching: CacheControl,
) -> Response:
    """Explain as a KServe explainer does: `instances` in, `explanations` out.

    Each entry is a result of `POST /v1/explanations` with its finished map in `map.data`, nested
    lists of the upload's size; of large pictures as much of it as JSON has room for
    (`CAMSERVE_MAX_JSON_MEGAPIXELS`). `{"parameters": {"size": "feature"}}` is the smallest,
    `{"size": "640"}` any other. Waits for the result; what takes longer than the server waits is
    a 504 with the address of the explanation, which goes on.
    """
    body = await read_body(request, state.settings)
    arrived_s = now_s()
    read = await state.on_pictures(partial(explanation_request, model, body, state.settings))
    del body
    async with explained(
        request,
        state,
        Arrival(*read, arrived_s),
        form=JSON,
        idempotency_key=idempotency_key,
        caching=caching,
    ) as done:
        signer = await state.signer()

        def make() -> Response:
            whole = explanation(done.record, done, state.settings, signer)
            answer = Explanations(
                explanations=whole.results,
                id=whole.id,
                model=whole.model,
                model_version=whole.model_version,
                href=whole.href,
            )
            headers = {"Location": whole.href} | cache_status(done.record)
            return json_response(answer, headers=headers)

        return await state.on_pictures(make)


@router.post(
    "/{model}:predict",
    summary="Predict (KServe V1)",
    response_model=Predictions,
    responses={
        200: {"description": "One entry for each instance.", "headers": header("Cache-Status")},
        **problems(400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": json_body(InstancesRequest, {"instances": [{"b64": GRAY_PIXEL}]})
    },
)
async def kserve_predict(
    request: Request, model: Name, state: State, caching: CacheControl
) -> Response:
    """Predict as a KServe predictor does: `instances` in, `predictions` out.

    Each is what the model returned for its instance, raw, as nested lists; `POST
    /v1/models/{model}/predict` has labels and probabilities. Waits until the deadline.
    """
    body = await read_body(request, state.settings)
    arrived_s = now_s()
    read = await state.on_pictures(partial(prediction_request, body, state.settings))
    del body
    work = predicted(
        state,
        Arrival(*read, arrived_s),
        model,
        request_id=request.state.request_id,
        caching=caching,
    )
    done = await unless_abandoned(request, work)

    def make() -> Response:
        check_room(done, state.settings, f"ask POST /v1/models/{model}/predict for .npy")
        return json_response(
            Predictions(
                predictions=tuple(output[()] for output in done.outputs),
                model=done.card.name,
                model_version=done.result.model_version,
            ),
            headers=cache_status(done.record),
        )

    return await state.on_pictures(make)
