"""Whose job it is that something is logged about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, use_span
from structlog.contextvars import bound_contextvars

from camserve.contracts.jobs import Job
from camserve.tracing import context_of

__all__ = ["about", "fields_of"]


def fields_of(job_id: str, job: Job) -> dict[str, str]:
    """What lines about a job say besides: its id, its model, the request that handed it in."""
    request = {} if job.request_id is None else {"request_id": job.request_id}
    return {"job_id": job_id, "model": job.model, **request}


@contextmanager
def about(job_id: str, job: Job, span: Span | None = None) -> Iterator[None]:
    """Lines and stages inside are of this job. span: by default the one that handed it in."""
    current = span or trace.get_current_span(context_of(job.trace))
    with (
        use_span(current, record_exception=False, set_status_on_exception=False),
        bound_contextvars(**fields_of(job_id, job)),
    ):
        yield
