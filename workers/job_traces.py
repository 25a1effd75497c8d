"""A job in a worker's hands, as its logs and its trace tell of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from structlog.contextvars import bound_contextvars

from camserve.broker import Begun
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.errors import ErrorCode
from camserve.tracing import context_of, fail, tracer
from workers.attempts import Outcome
from workers.job_context import about

__all__ = ["JobTrace", "done_together", "stage_of_each"]


class JobTrace:
    """From the job's beginning here to its commit.

    span: `process`, of the trace of the request that handed the job in; its sibling `queue` is the
    wait before it. Neither is recorded where the request's was not. is_announced: whether the logs
    tell that it has begun.
    """

    def __init__(self, begun: Begun, job: Job) -> None:
        self.job_id, self.begun, self.job = begun.job_id, begun, job
        self.is_announced = False
        request = context_of(job.trace)
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.message.id": begun.job_id,
            "camserve.model": job.model,
            "camserve.job.kind": job.kind,
            "camserve.job.attempt": begun.attempts,
        }
        now_ns = time.time_ns()
        # by this host's clock, and as long as it was by the server's
        entered_ns = now_ns - max(begun.queued_ms, 0) * 1_000_000
        waited = tracer.start_span("queue", request, attributes=attributes, start_time=entered_ns)
        waited.end(now_ns)
        self.span = tracer.start_span(
            f"process {job.model}", request, SpanKind.CONSUMER, attributes, start_time=now_ns
        )

    def current(self) -> AbstractContextManager[None]:
        """Lines and stages inside are of this job."""
        return about(self.job_id, self.job, self.span)

    def end(self, outcome: Outcome) -> None:
        """With what was to be committed."""
        if isinstance(outcome, FailureMessage):
            self.span.set_attribute("error.type", outcome.code.value)
            if outcome.code is not ErrorCode.CANCELED:
                self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


@contextmanager
def stage_of_each(name: str, traces: Sequence[JobTrace | None]) -> Iterator[list[Span]]:
    """A part of each of several jobs that are handled at once: a span of each, in their order. Of a
    job that is not recorded, no part is."""
    spans = [
        tracer.start_span(name, trace.set_span_in_context(one.span))
        if one is not None and one.span.is_recording()
        else INVALID_SPAN
        for one in traces
    ]
    try:
        yield spans
    finally:
        for span in spans:
            span.end()


@contextmanager
def done_together(name: str, part: str, model: str, traces: Sequence[JobTrace]) -> Iterator[None]:
    """While something is done once for jobs of one model: a span `part` of each of them, linked to
    the one span `name`, of a trace of its own, which is linked to the jobs.

    Lines inside are of the job, or name all of them. Unrecorded jobs have no spans.
    """
    recorded = [one.span for one in traces if one.span.is_recording()]
    with ExitStack() as stack:
        if recorded:
            whole = tracer.start_span(
                f"{name} {model}",
                context_of({}),
                attributes={"camserve.model": model, "messaging.batch.message_count": len(traces)},
                links=[Link(span.get_span_context()) for span in recorded],
            )
            parts = [
                tracer.start_span(
                    part, trace.set_span_in_context(span), links=[Link(whole.get_span_context())]
                )
                for span in recorded
            ]
            stack.push(_Ending([whole, *parts]))
        if len(traces) == 1:
            stack.enter_context(traces[0].current())
        else:
            of_all = {
                "job_ids": [one.job_id for one in traces],
                "request_ids": [one.job.request_id for one in traces if one.job.request_id],
            }
            stack.enter_context(bound_contextvars(model=model, **of_all))
        yield


class _Ending:
    """Ends spans, as failed if there is an error."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans

    def __call__(self, _: object, error: BaseException | None, __: object) -> None:
        for span in reversed(self._spans):
            if error is not None:
                fail(span, error)
            span.end()
