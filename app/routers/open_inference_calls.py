"""The Open Inference Protocol V2: what a model makes of tensors."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import WithJsonSchema

from app.abandonment import unless_abandoned
from app.body_documentation import GRAY_PIXEL
from app.cache_status import cache_status
from app.documentation import binary, header, problems
from app.negotiation import JSON, NPY
from app.neighbours.documentation import json_body
from app.neighbours.explaining import explained
from app.neighbours.v2_answers import (
    OCTETS,
    explanation_head,
    explanation_tensors,
    inference_response,
    prediction_head,
    prediction_tensors,
)
from app.neighbours.v2_metadata import EXPLAIN_OUTPUTS, OUTPUT
from app.neighbours.v2_requests import (
    HEADER,
    Asked,
    explanation_request,
    json_length,
    prediction_request,
    read_inference,
)
from app.prediction import predicted
from app.routers.open_inference import check_version
from app.routers.parameters import CacheControl, IdempotencyKey, Name
from app.state import AppState, State
from app.uploads import Arrival, now_s, read_body
from camserve.contracts.open_inference import InferenceRequest, InferenceResponse

__all__ = ["router"]

router = APIRouter(
    prefix="/v2/models/{model}", tags=["Open Inference V2"], dependencies=[Depends(check_version)]
)

HeaderLength = Annotated[
    list[str] | None,
    Header(
        alias=HEADER,
        description="Of a body with binary tensors: how many of its bytes are JSON.",
    ),
    WithJsonSchema({"type": "integer", "minimum": 0}),
]
_PICTURE: Final = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [GRAY_PIXEL]}
_EXPLAIN: Final[dict[str, Any]] = {
    "inputs": [_PICTURE],
    "parameters": {"class_label": "star", "size": "feature"},
    "outputs": [{"name": "map"}, {"name": "score"}],
}
_INFER: Final[dict[str, Any]] = {"inputs": [_PICTURE]}
_STATUSES: Final = (400, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)


@router.post(
    "/explain",
    summary="Explain (Open Inference)",
    response_model=InferenceResponse,
    responses={
        200: {
            "description": "The tensors; as bytes behind the JSON where that was asked for.",
            "content": binary(OCTETS),
            "headers": header(HEADER, "Location", "Cache-Status"),
        },
        **problems(*_STATUSES),
    },
    openapi_extra={"requestBody": json_body(InferenceRequest, _EXPLAIN, OCTETS)},
)
@router.post("/versions/{version}/explain", include_in_schema=False)
async def open_inference_explain(
    request: Request,
    model: Name,
    state: State,
    *,
    idempotency_key: IdempotencyKey,
    caching: CacheControl,
    json_bytes: HeaderLength = None,
) -> Response:
    """Explain a batch of tensors: maps, scores and classes come back as tensors.

    Outputs, with a row for each input and target: `map` (FP32), `score` (FP32), `class_index`
    (INT64, -1 for none), `class_label` (BYTES) and `input_index` (INT64). `parameters` holds the
    options of `POST /v1/explanations`, flat as in a form, with `size` for that of the maps. Waits
    for the result; what takes longer than the server waits is a 504 with the address of the
    explanation, which goes on. The binary tensor extension works both ways.
    """
    asked, arrived_s = await _asked(request, model, state, json_bytes)
    chosen = asked.chosen(tuple(EXPLAIN_OUTPUTS))
    read = explanation_request(model, asked, state.settings)
    async with explained(
        request,
        state,
        Arrival(*read, arrived_s),
        form=NPY if "map" in chosen else JSON,
        idempotency_key=idempotency_key,
        caching=caching,
    ) as done:

        def make() -> Response:
            tensors = explanation_tensors(done, state.settings, chosen)
            response = inference_response(explanation_head(done, asked.id), tensors, chosen)
            response.headers.update(cache_status(done.record))
            return response

        return await state.on_pictures(make)


@router.post(
    "/infer",
    summary="Infer (Open Inference)",
    response_model=InferenceResponse,
    responses={
        200: {
            "description": "The tensor; as bytes behind the JSON where that was asked for.",
            "content": binary(OCTETS),
            "headers": header(HEADER, "Cache-Status"),
        },
        **problems(400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": json_body(InferenceRequest, _INFER, OCTETS)},
)
@router.post("/versions/{version}/infer", include_in_schema=False)
async def open_inference_infer(
    request: Request,
    model: Name,
    state: State,
    caching: CacheControl,
    json_bytes: HeaderLength = None,
) -> Response:
    """Run the model on a batch of tensors: `output` (FP32) is what it returned, a row an input.

    Nothing is added or taken away: logits stay logits. Waits until the deadline. The binary tensor
    extension works both ways.
    """
    asked, arrived_s = await _asked(request, model, state, json_bytes)
    chosen = asked.chosen((OUTPUT,))
    arrival = Arrival(*prediction_request(asked, state.settings), arrived_s)
    work = predicted(state, arrival, model, request_id=request.state.request_id, caching=caching)
    done = await unless_abandoned(request, work)

    def make() -> Response:
        tensors = prediction_tensors(done, state.settings, chosen)
        response = inference_response(prediction_head(done, asked.id), tensors, chosen)
        response.headers.update(cache_status(done.record))
        return response

    return await state.on_pictures(make)


async def _asked(
    request: Request, model: str, state: AppState, json_bytes: list[str] | None
) -> tuple[Asked, float]:
    """What the body asks for, and when it was there."""
    body = await read_body(request, state.settings)
    arrived_s = now_s()
    length = json_length(json_bytes, body)
    read = partial(read_inference, model, body, length, state.settings)
    return await state.on_pictures(read), arrived_s
