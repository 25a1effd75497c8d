"""A job on its way to its answer: handed in, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TypedDict

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from app.admission import may_recall
from app.request_log import note_job
from app.state import AppState
from camserve.broker import Enqueued, JobRecord, Lookup, Priority
from camserve.contracts.computations import computation_digest
from camserve.contracts.jobs import Job
from camserve.errors import NoWorker, QueueUnavailable
from camserve.tracing import carried, context_of, stage, staged

__all__ = ["Submission", "document_of", "hand_in", "kept_as", "wait"]

RESUBMIT_PAUSE_S = 0.05


class _Said(TypedDict):
    """What the queue is told of a job, whichever way it is answered."""

    job_id: str
    priority: Priority
    execution: str
    time_to_deadline_ms: int
    document: bytes
    attachments: dict[str, bytes]
    idempotency_key: str | None
    idempotency_owner: str
    fingerprint: str | None
    listed: bool
    delivery_life_ms: int | None
    weight: int


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
    lack: NoWorker | None
    """Why it cannot be computed now: only an earlier result can answer it."""
    ended: JobRecord | None = None
    """The job, if an earlier result answered it."""

    @property
    def is_for_one_client(self) -> bool:
        """Whether nobody but the one who sent it can want its result: a key says that somebody may
        come back for it, a webhook that somebody is told."""
        return self.idempotency_key is None and self.job.webhook is None


async def hand_in(state: AppState, submission: Submission) -> Submission:
    """Have it answered by the result of an earlier one, or enqueue it. It comes back under the id
    that answers it. Raises NoWorker, QueueFull, IdempotencyConflict, QueueUnavailable."""
    with stage("enqueue", {"messaging.system": "redis"}, kind=SpanKind.PRODUCER) as span:
        enqueued = await _handed_in(state, submission)
        span.set_attribute("messaging.message.id", enqueued.job_id)
        span.set_attribute("camserve.job.duplicate", enqueued.duplicate)
        if enqueued.duplicate and span.is_recording():
            await _link(span, state, enqueued.job_id)
    note_job(enqueued.job_id)
    return replace(submission, job_id=enqueued.job_id, ended=enqueued.record)


async def _handed_in(state: AppState, submission: Submission) -> Enqueued:
    job = submission.job
    left_s = submission.deadline_s - asyncio.get_running_loop().time()
    said: _Said = {
        "job_id": submission.job_id,
        "priority": submission.priority,
        "execution": submission.execution,
        "time_to_deadline_ms": max(round(left_s * 1000), 0),
        "document": document_of(job),
        "attachments": submission.pictures,
        "idempotency_key": submission.idempotency_key,
        "idempotency_owner": submission.owner,
        "fingerprint": submission.fingerprint,
        "listed": job.kind == "explain",
        "delivery_life_ms": round(state.webhooks.schedule.life_s * 1000) if job.webhook else None,
        "weight": job.weight,
    }
    digest, lookup = kept_as(state, job)
    if digest is not None and may_recall(state, job.caching):
        recalled = await state.result_cache.recall(digest=digest, **said)
        if recalled is not None:
            return recalled
    if submission.lack:
        raise submission.lack
    return await state.queue.enqueue(
        payload=submission.payload, digest=digest, lookup=lookup, **said
    )


def kept_as(state: AppState, job: Job) -> tuple[str | None, Lookup | None]:
    """The digest under which the result of a job that is to be computed may answer others, and what
    it counts as: None where no results are kept."""
    if not state.result_cache.is_on:
        return None, None
    digest = computation_digest(job) if job.may_fill_caches else None
    return digest, "miss" if job.may_read_caches else "bypass"


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
    if submission.ended is not None:
        return submission.ended
    clock = asyncio.get_running_loop()
    while True:
        record = await state.queue.wait(submission.job_id, max(until_s - clock.time(), 0))
        if record is not None:
            return record
        if clock.time() >= min(until_s, submission.deadline_s):
            raise QueueUnavailable
        submission = await hand_in(state, submission)
        await asyncio.sleep(RESUBMIT_PAUSE_S)  # a server that forgets again must not be hammered
