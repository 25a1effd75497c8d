"""A prediction as JSON or as one array, whichever was asked for."""

from __future__ import annotations

import time

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from app.answers import VARY
from app.cache_status import cache_status
from app.messages import json_response
from app.negotiation import NPY
from app.prediction import Predicted
from app.rankings import has_classes, ranking
from app.representations import computation, timings
from app.server_timing import server_timing
from app.state import AppState
from camserve.contracts.predictions import InputPrediction, Prediction
from camserve.errors import InvalidRequest, TooLarge
from camserve.maps.encode import npy_parts
from camserve.settings import Settings
from camserve.tracing import staged

__all__ = ["check_room", "prediction", "prediction_response", "stacked"]


@staged("present")
async def prediction_response(
    state: AppState, done: Predicted, form: str, top: int | None
) -> Response:
    """form: JSON or .npy. top: how many classes the JSON lists. Raises InvalidRequest, TooLarge."""
    began_s = time.perf_counter()

    def make() -> Response:
        if form == NPY:
            response = Response(b"".join(npy_parts([stacked(done.outputs)])), media_type=NPY)
        else:
            response = json_response(prediction(done, top, state.settings))
        response.headers.update(VARY)
        timing = server_timing(done.record, done, began_s=began_s, prepare_s=done.prepare_s)
        response.headers.update(timing | cache_status(done.record))
        return response

    return await state.on_pictures(make)


def prediction(done: Predicted, top: int | None, settings: Settings) -> Prediction:
    """The JSON of a prediction. Raises TooLarge for an output of more numbers than JSON holds."""
    return Prediction(
        model=done.card.name,
        model_version=done.result.model_version,
        results=tuple(_of_input(done, index, top, settings) for index in range(len(done.outputs))),
        timings_ms=timings(done.record, done.result.compute_ms),
        computation=computation(done.record, done.result, forward_passes=len(done.outputs)),
    )


def _of_input(done: Predicted, index: int, top: int | None, settings: Settings) -> InputPrediction:
    output, card = done.outputs[index], done.card
    classes = has_classes(card)
    if not classes:
        check_room(done, settings)
    return InputPrediction(
        input=index,
        input_name=done.job.inputs[index].name,
        output_shape=output.shape,
        predictions=ranking(output, done.result.output_format, card, top) if classes else (),
        values=None if classes else output[()],  # of one number: the number
        diagnostics=done.result.rows[index].diagnostics,
    )


def check_room(
    done: Predicted, settings: Settings, otherwise: str = "ask for application/x-npy"
) -> None:
    """Raises TooLarge for more numbers than JSON lists. otherwise: what to do about it."""
    limit = settings.max_json_megapixels * 1_000_000
    numbers = sum(output.size for output in done.outputs)
    if numbers > limit:
        raise TooLarge(
            f"the outputs are {numbers / 1e6:.3g} million numbers, and JSON lists at most "
            f"{limit / 1e6:g}: {otherwise}, or send fewer inputs",
            limit=limit,
        )


def stacked(outputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """(N, ...) of N inputs. Raises InvalidRequest unless all have one shape."""
    shapes = {output.shape for output in outputs}
    if len(shapes) > 1:
        raise InvalidRequest(
            "the outputs differ in shape and cannot be stacked: ask for one input at a time",
            field="inputs",
        )
    return np.stack(outputs)
