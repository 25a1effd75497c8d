"""From a checked request to a job in the queue, and the wait for its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from safetensors.numpy import save

from app.documents import Upload
from app.inputs import PreparedInput, prepare
from app.state import AppState
from app.targets import check_layers, reduction_layer, resolve_targets
from camserve.broker import JobRecord, Priority, new_job_id
from camserve.contracts.cards import InputSpec
from camserve.contracts.jobs import Job, input_name
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import CamserveError, InvalidRequest, QueueUnavailable

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
    deadline_s: float  # by this process's event loop
    idempotency_key: str | None
    fingerprint: str | None


def picture_name(index: int) -> str:
    """Name of the attachment that holds the display copy of an input."""
    return f"picture.{index}"


async def submit(
    state: AppState,
    request: ExplanationRequest,
    uploads: Sequence[Upload],
    *,
    idempotency_key: str | None,
    request_id: str | None,
) -> Submission:
    """Check the request against the model, prepare its inputs, and enqueue the job.

    Returns the submission under the id that answers it (an earlier one's for a repeated
    idempotency key). Raises RequestError for what the caller can mend, ModelError or ServiceError.
    """
    started_s = asyncio.get_running_loop().time()
    time_to_deadline_s = _time_to_deadline_s(request, state)
    card = await state.catalog.ready_card(request.model, time_to_deadline_s)
    if card.input is None:
        raise InvalidRequest(f"model {card.name!r} takes no pictures or tensors")
    targets = resolve_targets(request.targets, card, request.reduction_layer)
    check_layers(request.feature_layer, request.reduction_layer, card)
    inputs = await _prepared(state, uploads, card.input)
    job = Job(
        model=card.name,
        model_version=card.version,
        inputs=tuple(prepared.meta for prepared in inputs),
        targets=targets,
        method=request.method,
        feature_layer=request.feature_layer,
        reduction_layer=reduction_layer(request.reduction_layer, request.convention, card),
        convention=request.convention,
        upsampling=request.upsampling,
        output=request.output,
        request_id=request_id,
    )
    payload = await asyncio.to_thread(
        save, {input_name(i): one.tensor for i, one in enumerate(inputs)}
    )
    submission = Submission(
        job_id=new_job_id(card.name),
        job=job,
        payload=payload,
        pictures={picture_name(i): one.picture for i, one in enumerate(inputs)},
        priority=Priority(request.priority),
        deadline_s=started_s + time_to_deadline_s,
        idempotency_key=idempotency_key,
        fingerprint=await asyncio.to_thread(_fingerprint, job, payload)
        if idempotency_key
        else None,
    )
    return replace(submission, job_id=await _enqueue(state, submission))


async def _prepared(
    state: AppState, uploads: Sequence[Upload], spec: InputSpec
) -> list[PreparedInput]:
    """All inputs; the first that cannot be prepared ends it, with its number in the error."""

    async def one(index: int, upload: Upload) -> PreparedInput:
        try:
            return await state.on_pictures(partial(prepare, upload, spec, state.settings))
        except CamserveError as error:
            error.extensions["input"] = index
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(one(i, upload)) for i, upload in enumerate(uploads)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in made]


def _fingerprint(job: Job, payload: bytes) -> str:
    """What must be equal for a repeated request to be the same request."""
    same = job.model_dump_json(
        # the same bytes under another name are the same, and so is a retry after a model's reload
        exclude={"request_id": True, "model_version": True, "inputs": {"__all__": {"name"}}}
    )
    return hashlib.sha256(same.encode() + payload).hexdigest()


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
        time_to_deadline_ms=max(round(left_s * 1000), 0),
        payload=submission.payload,
        document=submission.job.model_dump_json().encode(),
        attachments=submission.pictures,
        idempotency_key=submission.idempotency_key,
        fingerprint=submission.fingerprint,
    )
    return enqueued.job_id


async def wait(state: AppState, submission: Submission, wait_s: float) -> JobRecord:
    """The job when it is closed, else as it is after `wait_s`. Raises QueueUnavailable.

    A job that Redis lost before its deadline is handed in again. It may by then have the id of
    another request with the same idempotency key.
    """
    clock = asyncio.get_running_loop()
    end_s = clock.time() + wait_s
    while True:
        record = await state.queue.wait(submission.job_id, max(end_s - clock.time(), 0))
        if record is not None:
            return record
        if clock.time() >= min(end_s, submission.deadline_s):
            raise QueueUnavailable
        submission = replace(submission, job_id=await _enqueue(state, submission))
        await asyncio.sleep(RESUBMIT_PAUSE_S)  # a server that forgets again must not be hammered
