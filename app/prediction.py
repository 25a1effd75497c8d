"""A model's own answer: handed in like an explanation, waited for, and taken off the queue."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.abandonment import taken_along
from app.admission import Admission, admit, payload_made, prepared
from app.handing_in import Submission, hand_in, wait
from app.inputs import PreparedInput
from app.rankings import check_top
from app.results import array_of, committed, failure_of
from app.state import AppState
from app.stopping import Stage
from app.submission import digested
from app.uploads import Arrival
from camserve.broker import JobRecord, Priority, State, new_job_id
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import Caching, Job, PredictionResult, input_name, output_name
from camserve.contracts.requests import PredictionRequest
from camserve.contracts.wire import metadata_of, tensors_of
from camserve.errors import DeadlineExceeded, QueueUnavailable, ShuttingDown

__all__ = ["Predicted", "predicted"]

TOO_LATE = "the deadline passed before the prediction was made"


@dataclass(frozen=True)
class Predicted:
    """A prediction that succeeded. outputs: for each input what the model returned, float32, its
    dimensions in the model's own order without B (`result.output_format` labels them). prepare_s:
    what it took before it was in the queue."""

    record: JobRecord
    card: ResolvedCard
    job: Job
    result: PredictionResult
    outputs: tuple[NDArray[np.float32], ...]
    prepare_s: float


async def predicted(
    state: AppState,
    arrival: Arrival[PredictionRequest],
    model: str,
    *,
    request_id: str | None,
    caching: Caching,
) -> Predicted:
    """Run the model on the inputs of a request, and wait for it until the request's deadline.

    Nothing is left behind: the job goes with its answer, and a caller who is cancelled takes it
    along. Raises what `admit` and `prepared` do, DeadlineExceeded, ShuttingDown, QueueFull,
    QueueUnavailable, or what the prediction failed with.
    """
    admission = await admit(state, arrival, model, caching)
    check_top(arrival.asked, admission.card)
    inputs = await prepared(state, arrival, admission, caching, drawn=False)
    submission = await _submission(
        state, arrival, admission, inputs, request_id=request_id, caching=caching
    )
    prepare_s = asyncio.get_running_loop().time() - arrival.arrived_s
    async with taken_along(state, submission):
        record, buffer = await _outcome(state, submission)
    with contextlib.suppress(QueueUnavailable):  # else it goes at the end of its life
        await state.queue.discard(record.id)
    result = PredictionResult.model_validate_json(metadata_of(buffer))
    outputs = _outputs(buffer, len(inputs))
    return Predicted(record, admission.card, submission.job, result, outputs, prepare_s)


async def _submission(
    state: AppState,
    arrival: Arrival[PredictionRequest],
    admission: Admission,
    inputs: list[PreparedInput],
    *,
    request_id: str | None,
    caching: Caching,
) -> Submission:
    request, card = arrival.asked, admission.card
    job = Job(
        kind="predict",
        model=card.name,
        model_version=card.version,
        model_interface=card.interface,
        inputs=tuple(one.meta for one in inputs),
        precision=request.precision,
        request_id=request_id,
        caching=caching,
    )
    tensors = {input_name(index): one.tensor for index, one in enumerate(inputs)}
    job, payload = await payload_made(
        state, inputs, lambda: digested(job, tensors), admission.deadline_s
    )
    return Submission(
        job_id=new_job_id(card.name),
        job=job,
        payload=payload,
        pictures={},
        priority=Priority(request.priority),
        execution=request.execution,
        arrived_s=arrival.arrived_s,
        deadline_s=admission.deadline_s,
        idempotency_key=None,
        owner="",
        fingerprint=None,
        lack=admission.lack,
    )


async def _outcome(state: AppState, submission: Submission) -> tuple[JobRecord, bytes]:
    """The closed job and its result. Raises what it failed with, DeadlineExceeded if it expires or
    is still open at its deadline, ShuttingDown, QueueUnavailable."""
    submission = await hand_in(state, submission)
    record = await wait(state, submission, submission.deadline_s)
    if not record.is_terminal and state.stopping.has_reached(Stage.LATE):
        raise ShuttingDown
    if not record.is_terminal or record.state is State.EXPIRED:
        raise DeadlineExceeded(TOO_LATE)
    if failure := failure_of(record):
        raise failure
    buffer = await committed(state, record)
    if buffer is None:  # Redis lost its data between the end of the job and its answer
        raise QueueUnavailable
    return record, buffer


def _outputs(buffer: bytes, count: int) -> tuple[NDArray[np.float32], ...]:
    """Views of the buffer."""
    tensors = tensors_of(buffer)
    return tuple(array_of(tensors[output_name(index)]) for index in range(count))
