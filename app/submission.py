"""From a checked request to a job in the queue, and the wait for its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from safetensors.numpy import save

from app.admission import admit, prepared, until
from app.layers import check_layers, reduction_layer
from app.payloads import payload_tensors
from app.request_log import note_job
from app.requested import check_answer
from app.state import AppState
from app.targets import default_targets, resolve_targets
from app.uploads import Arrival
from camserve.broker import JobRecord, Priority, new_job_id
from camserve.contracts.jobs import Caching, Job
from camserve.contracts.layers import layer_names
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import QueueUnavailable
from camserve.tracing import carried, context_of, stage, staged

__all__ = ["Submission", "digested", "document_of", "hand_in", "picture_name", "submit", "wait"]

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

    @property
    def is_for_one_client(self) -> bool:
        """Whether nobody but the one who sent it can want its result: a key says that somebody may
        come back for it, a webhook that somebody is told."""
        return self.idempotency_key is None and self.job.webhook is None


def digested(job: Job, tensors: dict[str, NDArray[Any]]) -> tuple[Job, bytes]:
    """The job with the digest of its payload, and the payload. Runs in a thread."""
    payload = save(tensors)
    digest = hashlib.sha256(payload).hexdigest()
    return job.model_copy(update={"input_digest": digest}), payload


def picture_name(index: int) -> str:
    """Name of the attachment that holds the display copy of an input."""
    return f"picture.{index}"


async def submit(
    state: AppState,
    arrival: Arrival[ExplanationRequest],
    *,
    form: str,
    idempotency_key: str | None,
    owner: str,
    request_id: str | None,
    caching: Caching,
) -> Submission:
    """Check the request against the model, prepare its inputs, and enqueue the job.

    form: media type of the answer. owner: whose the idempotency key is. Returns the submission
    under the id that answers it (an earlier one's for a repeated idempotency key). Raises
    RequestError for what the caller can mend, ModelError or ServiceError.
    """
    request = arrival.asked
    state.webhooks.check(request.webhook)
    admission = await admit(state, arrival, request.model)
    card = admission.card
    asked = request.targets or default_targets(card)
    targets = resolve_targets(
        asked,
        card,
        request.reduction_layer,
        max_expression_nodes=state.settings.max_expression_nodes,
    )
    check_layers(request, card)
    inputs = await prepared(state, arrival, admission)
    job = Job(
        model=card.name,
        model_version=card.version,
        model_interface=card.interface,
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
        webhook=request.webhook,
        caching=caching,
    )

    def with_payload() -> tuple[Job, bytes]:
        check_answer(job, inputs, form, state.settings)
        return digested(job, payload_tensors(asked, inputs, state.settings))

    async with until(admission.deadline_s):
        job, payload = await state.on_pictures(with_payload)
    submission = Submission(
        job_id=new_job_id(card.name),
        job=job,
        payload=payload,
        pictures={picture_name(i): one.picture for i, one in enumerate(inputs)},
        priority=Priority(request.priority),
        execution=request.execution,
        arrived_s=arrival.arrived_s,
        deadline_s=admission.deadline_s,
        idempotency_key=idempotency_key,
        owner=owner,
        fingerprint=_fingerprint(job, request.execution) if idempotency_key else None,
    )
    return await hand_in(state, submission)


def _fingerprint(job: Job, execution: str) -> str:
    """What must be equal for a repeated request to be the same request. The payload is, by its
    digest."""
    same = job.model_dump_json(
        # the same bytes under another name are the same, and so is a retry after a model's reload
        exclude={
            **dict.fromkeys(("request_id", "model_version", "model_interface"), True),
            **dict.fromkeys(("replay_of", "caching"), True),
            "inputs": {"__all__": {"name"}},
        }
    )
    return hashlib.sha256(f"{execution}\n{same}".encode()).hexdigest()


async def hand_in(state: AppState, submission: Submission) -> Submission:
    """Enqueue it. It comes back under the id that answers it. Raises QueueFull,
    IdempotencyConflict, QueueUnavailable."""
    left_s = submission.deadline_s - asyncio.get_running_loop().time()
    with stage("enqueue", {"messaging.system": "redis"}, kind=SpanKind.PRODUCER) as span:
        enqueued = await state.queue.enqueue(
            job_id=submission.job_id,
            priority=submission.priority,
            execution=submission.execution,
            time_to_deadline_ms=max(round(left_s * 1000), 0),
            payload=submission.payload,
            document=document_of(submission.job),
            attachments=submission.pictures,
            idempotency_key=submission.idempotency_key,
            idempotency_owner=submission.owner,
            fingerprint=submission.fingerprint,
            listed=submission.job.kind == "explain",
            delivery_life_ms=round(state.webhooks.schedule.life_s * 1000)
            if submission.job.webhook
            else None,
            weight=submission.job.weight,
        )
        span.set_attribute("messaging.message.id", enqueued.job_id)
        span.set_attribute("camserve.job.duplicate", enqueued.duplicate)
        if enqueued.duplicate and span.is_recording():
            await _link(span, state, enqueued.job_id)
    note_job(enqueued.job_id)
    return replace(submission, job_id=enqueued.job_id)


def document_of(job: Job) -> bytes:
    """A job as it is handed in: its spans, on a worker, are of the current one."""
    trace_of_job = {"traceparent": None, "tracestate": None} | carried()
    return job.model_copy(update=trace_of_job).model_dump_json().encode()


async def _link(span: Span, state: AppState, job_id: str) -> None:
    """To the trace of the request that a repeated one is answered by, if it is still known."""
    with contextlib.suppress(QueueUnavailable):
        if record := await state.queue.get(job_id):
            first = context_of(Job.model_validate_json(record.document).trace)
            span.add_link(trace.get_current_span(first).get_span_context())


@staged("wait")
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
        submission = await hand_in(state, submission)
        await asyncio.sleep(RESUBMIT_PAUSE_S)  # a server that forgets again must not be hammered
