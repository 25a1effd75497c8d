"""From a checked request to a job in the queue, and the wait for its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from safetensors.numpy import save

from app.documents import Upload
from app.inputs import PreparedInput, prepare
from app.layers import check_layers, reduction_layer
from app.payloads import payload_tensors
from app.requested import check_answer
from app.state import AppState
from app.targets import default_targets, resolve_targets
from app.uploads import Arrival
from camserve.broker import JobRecord, Priority, new_job_id
from camserve.contracts.input_specs import InputSpec
from camserve.contracts.jobs import Job
from camserve.contracts.layers import layer_names
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import (
    CamserveError,
    DeadlineExceeded,
    InvalidRequest,
    QueueUnavailable,
    TooLarge,
)

__all__ = ["Submission", "picture_name", "submit", "wait"]

RESUBMIT_PAUSE_S = 0.05


@dataclass(frozen=True)
class Submission:
    """A job with all that is needed to hand it in, again if Redis lost it."""

    job_id: str
    job: Job
    payload: bytes
    pictures: dict[str, bytes]
    priority: Priority
    execution: str
    arrived_s: float  # by this process's event loop, as is the next
    deadline_s: float
    idempotency_key: str | None
    owner: str
    fingerprint: str | None


def picture_name(index: int) -> str:
    """Name of the attachment that holds the display copy of an input."""
    return f"picture.{index}"


async def submit(
    state: AppState,
    arrival: Arrival,
    *,
    form: str,
    idempotency_key: str | None,
    owner: str,
    request_id: str | None,
) -> Submission:
    """Check the request against the model, prepare its inputs, and enqueue the job.

    form: media type of the answer. owner: whose the idempotency key is. Returns the submission
    under the id that answers it (an earlier one's for a repeated idempotency key). Raises
    RequestError for what the caller can mend, ModelError or ServiceError.
    """
    request = arrival.asked
    time_to_deadline_s = _time_to_deadline_s(request, state)
    deadline_s = arrival.arrived_s + time_to_deadline_s
    card = await state.catalog.ready_card(request.model, time_to_deadline_s)
    if card.input is None:
        raise InvalidRequest(f"model {card.name!r} takes no pictures or tensors")
    asked = request.targets or default_targets(card)
    targets = resolve_targets(asked, card, request.reduction_layer)
    check_layers(request, card)
    await state.catalog.check_execution(card.name, request.execution)
    async with _until(deadline_s):
        inputs = await _prepared(state, arrival.uploads, card.input, request.format)
    job = Job(
        model=card.name,
        model_version=card.version,
        inputs=tuple(prepared.meta for prepared in inputs),
        targets=targets,
        method=request.method,
        method_options=request.method_options,
        feature_layers=layer_names(request.feature_layer),
        feature_format=request.feature_format,
        reduction_layer=reduction_layer(request, targets, card),
        precision=request.precision,
        evaluate=request.evaluate,
        convention=request.convention,
        upsampling=request.upsampling,
        fusion=request.fusion,
        output=request.output,
        request_id=request_id,
    )

    def payload_of_job() -> bytes:
        check_answer(job, inputs, form, state.settings)
        return save(payload_tensors(asked, inputs, state.settings))

    async with _until(deadline_s):
        payload = await state.on_pictures(payload_of_job)
    submission = Submission(
        job_id=new_job_id(card.name),
        job=job,
        payload=payload,
        pictures={picture_name(i): one.picture for i, one in enumerate(inputs)},
        priority=Priority(request.priority),
        execution=request.execution,
        arrived_s=arrival.arrived_s,
        deadline_s=deadline_s,
        idempotency_key=idempotency_key,
        owner=owner,
        fingerprint=await asyncio.to_thread(_fingerprint, job, request.execution, payload)
        if idempotency_key
        else None,
    )
    return replace(submission, job_id=await _enqueue(state, submission))


@asynccontextmanager
async def _until(deadline_s: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded at the deadline, whatever is still being prepared, or in line."""
    try:
        async with asyncio.timeout_at(deadline_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded from error


async def _prepared(
    state: AppState, uploads: Sequence[Upload], spec: InputSpec, labels: str | None
) -> list[PreparedInput]:
    """All inputs; the first that cannot be prepared ends it, with its number in the error."""

    async def one(index: int, upload: Upload) -> list[PreparedInput]:
        try:
            return await state.on_pictures(partial(prepare, upload, spec, state.settings, labels))
        except CamserveError as error:
            error.extensions["input"] = index
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(one(i, upload)) for i, upload in enumerate(uploads)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    inputs = [one for task in made for one in task.result()]
    limit = state.settings.max_inputs
    if len(inputs) > limit:
        raise TooLarge(
            f"{len(inputs)} inputs are more than {limit}: send several requests", limit=limit
        )
    return inputs


def _fingerprint(job: Job, execution: str, payload: bytes) -> str:
    """What must be equal for a repeated request to be the same request."""
    same = job.model_dump_json(
        # the same bytes under another name are the same, and so is a retry after a model's reload
        exclude={"request_id": True, "model_version": True, "inputs": {"__all__": {"name"}}}
    )
    return hashlib.sha256(f"{execution}\n{same}".encode() + payload).hexdigest()


def _time_to_deadline_s(request: ExplanationRequest, state: AppState) -> float:
    if request.deadline_ms is None:
        return state.settings.deadline_s
    longest_s = state.settings.max_deadline_s
    if request.deadline_ms > longest_s * 1000:
        raise InvalidRequest(
            f"deadline_ms: at most {longest_s * 1000:.0f}",
            field="deadline_ms",
            limit=longest_s * 1000,
        )
    return request.deadline_ms / 1000


async def _enqueue(state: AppState, submission: Submission) -> str:
    left_s = submission.deadline_s - asyncio.get_running_loop().time()
    enqueued = await state.queue.enqueue(
        job_id=submission.job_id,
        priority=submission.priority,
        execution=submission.execution,
        time_to_deadline_ms=max(round(left_s * 1000), 0),
        payload=submission.payload,
        document=submission.job.model_dump_json().encode(),
        attachments=submission.pictures,
        idempotency_key=submission.idempotency_key,
        idempotency_owner=submission.owner,
        fingerprint=submission.fingerprint,
    )
    return enqueued.job_id


async def wait(state: AppState, submission: Submission, until_s: float) -> JobRecord:
    """The job when it is closed, else as it is at `until_s`, a time of this process's event loop.

    A job that Redis lost before its deadline is handed in again. It may by then have the id of
    another request with the same idempotency key. Raises QueueUnavailable.
    """
    clock = asyncio.get_running_loop()
    while True:
        record = await state.queue.wait(submission.job_id, max(until_s - clock.time(), 0))
        if record is not None:
            return record
        if clock.time() >= min(until_s, submission.deadline_s):
            raise QueueUnavailable
        submission = replace(submission, job_id=await _enqueue(state, submission))
        await asyncio.sleep(RESUBMIT_PAUSE_S)  # a server that forgets again must not be hammered
