"""The model's own answer, without an explanation."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import WithJsonSchema

from app.abandonment import unless_abandoned
from app.body_documentation import GRAY_PICTURE, flat_query, request_body
from app.documentation import binary, header, problems
from app.negotiation import JSON, NPY, choose_form
from app.prediction import predicted
from app.prediction_answers import prediction_response
from app.routers.parameters import CacheControl, Name
from app.state import State
from app.uploads import read_request
from camserve.contracts.predictions import Prediction
from camserve.contracts.requests import PredictionRequest
from camserve.errors import InvalidRequest

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "/{model}/predict",
    summary="Predict",
    response_model=Prediction,
    responses={
        200: {
            "content": binary(NPY),
            "description": "What the model says of each input.",
            "headers": header("Cache-Status", "Server-Timing"),
        },
        **problems(400, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": request_body(PredictionRequest, {"inputs": [GRAY_PICTURE], "top": 3}),
        "parameters": flat_query(PredictionRequest),
    },
)
async def predict(
    request: Request,
    model: Name,
    state: State,
    caching: CacheControl,
    as_form: Annotated[
        str | None,
        Query(alias="as", description="Form of the answer; wins over Accept."),
        WithJsonSchema({"type": "string", "enum": ["json", "npy"]}),
    ] = None,
) -> Response:
    """What the model itself says of one or more inputs: scores, labels and probabilities.

    Send JSON, a form (`-F input=@cat.jpg`), or the raw file with the options in the query string.
    The answer lists the best classes of each input; of a segmentation the classes that are there,
    with their share of the positions; of a regression or an embedding the numbers. As
    `application/x-npy` it is the model's raw output, one row an input. Waits until the result is
    there or the deadline passes; nothing is kept, and who hangs up takes the request along.
    """
    form = choose_form(request.headers.getlist("accept"), as_form, (JSON, NPY))
    arrival = await read_request(request, state.settings, PredictionRequest, state.on_pictures)
    top = arrival.asked.top
    if form == NPY and top is not None:
        raise InvalidRequest(
            "top is of the classes that JSON lists, and the array holds all: leave it out",
            field="top",
        )
    request_id = request.state.request_id
    work = predicted(state, arrival, model, request_id=request_id, caching=caching)
    return await prediction_response(state, await unless_abandoned(request, work), form, top)
