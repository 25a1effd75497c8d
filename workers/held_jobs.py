"""The jobs that a worker has begun: their leases are renewed until they are committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from pydantic import ValidationError

from camserve.broker import Begun, Ending, WorkerQueue
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.errors import Canceled, ErrorCode, ModelChanged, QueueUnavailable
from camserve.logs import get_logger
from camserve.tracing import fail
from workers.attempts import Outcome
from workers.computed import computed_digest
from workers.job_traces import JobTrace, stage_of_each
from workers.metrics import WorkerMetrics
from workers.progress import Progress
from workers.staging import Staged

__all__ = ["HeldJobs"]

logger = get_logger(__name__)

Work = TypeVar("Work")


class HeldJobs:
    """What is in this worker's hands. Each job taken is committed once, whatever happens to it."""

    def __init__(self, queue: WorkerQueue, metrics: WorkerMetrics) -> None:
        self._queue = queue
        self._metrics = metrics
        self._held: dict[str, Begun] = {}
        self._withdrawn: dict[str, threading.Event] = {}
        self._traces: dict[str, JobTrace] = {}
        self._staged: dict[str, Staged] = {}
        self.progress = Progress()

    def take(self, begun: Begun, staged: Staged | None = None) -> None:
        """staged: its payload, if it was read before."""
        self._held[begun.job_id] = begun
        self._withdrawn[begun.job_id] = threading.Event()
        if staged is not None:
            self._staged[begun.job_id] = staged

    def staged(self, begun: Begun) -> Staged | None:
        return self._staged.get(begun.job_id)

    def withdrawn(self, begun: Begun) -> threading.Event:
        """Is set once nobody wants the job's result any more; for the thread that computes it."""
        return self._withdrawn[begun.job_id]

    async def look(self) -> None:
        """Find out of all jobs whether somebody still waits for them: what was canceled, or closed,
        or is past its deadline need not be computed to its end. Raises QueueUnavailable."""
        held = list(self._held.values())
        gone = await self._queue.are_canceled(held)
        for begun, unwanted in zip(held, gone, strict=True):
            event = self._withdrawn.get(begun.job_id)
            if unwanted and event is not None and not event.is_set():
                logger.info("nobody waits for a job any more", job_id=begun.job_id)
                event.set()

    async def extend(self) -> None:
        """Renew all leases. Raises QueueUnavailable."""
        await self._queue.extend(list(self._held.values()))

    async def report(self) -> None:
        """Tell how far the jobs are that got on since the last time. Raises QueueUnavailable."""
        if news := self.progress.news(self._held.keys()):
            await self._queue.report([(self._held[name], *news[name]) for name in news])

    async def read(self, begun: Begun) -> Job | None:
        """What the job asks for; one whose document cannot be read fails, and leaves our hands."""
        try:
            job = Job.model_validate_json(begun.document)
        except ValidationError as error:
            logger.error(  # noqa: TRY400 - the traceback would say no more
                "a job has a document that this version of camserve cannot read",
                job_id=begun.job_id,
                reason=error.errors(include_input=False)[0]["msg"],
            )
            failure = FailureMessage(
                code=ErrorCode.INTERNAL,
                detail="unreadable job document: do the API and the workers have the same version?",
            )
            await self.commit(begun, failure)
            return None
        self._traces[begun.job_id] = JobTrace(begun, job)
        return job

    def announce(self, begun: Iterable[Begun]) -> None:
        """Log that jobs have begun, if they were read. It may come after their start; of those that
        end before it comes, their end tells."""
        for trace in self.traces(begun):
            _announce(trace)

    def traces(self, begun: Iterable[Begun]) -> list[JobTrace]:
        """Of jobs that were read and are not committed."""
        known = (self._traces.get(job.job_id) for job in begun)
        return [trace for trace in known if trace is not None]

    async def commit(self, begun: Begun, outcome: Outcome) -> None:
        """Finish or fail the job; the queue refuses if another worker owns it by now. One that was
        not computed since nobody wants it any more ends as canceled or expired."""
        await self.commit_all([begun], [outcome])

    async def commit_all(self, begun: Sequence[Begun], outcomes: Sequence[Outcome]) -> None:
        """The same of several, in one round trip; what one of them meets is nothing to the rest."""
        traces = [self._traces.pop(one.job_id, None) for one in begun]
        try:
            jobs = [trace.job if trace else None for trace in traces]
            with stage_of_each("commit", traces) as spans:
                endings = list(map(_ending, begun, outcomes, jobs))
                committed = await self._queue.commit(endings)
                for span, reply in zip(spans, committed, strict=True):
                    if isinstance(reply, Exception):
                        fail(span, reply)
            for one, outcome, trace, reply in zip(begun, outcomes, traces, committed, strict=True):
                if trace:
                    _announce(trace)
                with trace.current() if trace else nullcontext():
                    self._tell(one, outcome, committed=reply)
        finally:
            for one, outcome, trace in zip(begun, outcomes, traces, strict=True):
                self._held.pop(one.job_id, None)
                self._withdrawn.pop(one.job_id, None)
                self._staged.pop(one.job_id, None)
                if trace:
                    trace.end(outcome)

    def _tell(self, begun: Begun, outcome: Outcome, *, committed: bool | Exception) -> None:
        if isinstance(committed, QueueUnavailable):
            logger.warning("Redis is away: a job will be done again", job_id=begun.job_id)
        elif isinstance(committed, Exception):
            logger.error(
                "Redis refused a result: the job will be done again",
                job_id=begun.job_id,
                exc_info=committed,
            )
        else:
            if not committed:
                self._metrics.came_late(begun.model)
            _log_end(begun, outcome, committed=committed)

    async def drop_outdated(
        self, card: ResolvedCard, work: Sequence[tuple[Begun, Job]]
    ) -> list[tuple[Begun, Job]]:
        """The jobs that this version of the model computes as they were meant; those that were
        accepted for one with another interface fail."""
        fits = [job.model_interface in ("", card.interface) for _, job in work]
        changed = FailureMessage.of(ModelChanged(card.name, card.version))
        for (begun, _), fit in zip(work, fits, strict=True):
            if not fit:
                await self.commit(begun, changed)
        return [one for one, fit in zip(work, fits, strict=True) if fit]

    async def drop_unwanted(self, work: Sequence[tuple[Begun, Work]]) -> list[tuple[Begun, Work]]:
        """The jobs that somebody still waits for; those that are canceled, closed or past their
        deadline leave our hands."""
        try:
            gone = await self._queue.are_canceled([job for job, _ in work])
        except QueueUnavailable:
            return list(work)  # when in doubt, compute: the commit is fenced
        for (job, _), unwanted in zip(work, gone, strict=True):
            if unwanted:
                await self.commit(job, FailureMessage.of(Canceled()))
        return [one for one, unwanted in zip(work, gone, strict=True) if not unwanted]


def _ending(begun: Begun, outcome: Outcome, job: Job | None) -> Ending:
    if isinstance(outcome, bytes):
        return Ending.finished(begun, outcome, computed_digest(job, outcome) if job else "")
    if outcome.code is ErrorCode.CANCELED:
        return Ending.dropped(begun)
    return Ending.failed(begun, outcome.model_dump_json().encode())


def _announce(trace: JobTrace) -> None:
    """Once."""
    if trace.is_announced:
        return
    trace.is_announced = True
    how = {
        "kind": trace.job.kind,
        "attempt": trace.begun.attempts,
        "queued_ms": trace.begun.queued_ms,
    }
    with trace.current():
        if trace.begun.redelivered:
            logger.warning("job begun again: an earlier attempt vanished", **how)
        else:
            logger.info("job begun", **how)


def _log_end(begun: Begun, outcome: Outcome, *, committed: bool) -> None:
    how: dict[str, Any] = {
        "job_id": begun.job_id,
        "attempt": begun.attempts,
        "run_ms": round((time.monotonic() - begun.begun_s) * 1000, 1),
    }
    if isinstance(outcome, FailureMessage) and outcome.code is ErrorCode.CANCELED:
        logger.info("job stopped: nobody waits for it any more", **how)
    elif not committed:
        logger.warning(
            "a result came too late and was refused: the job was closed, or another worker took it",
            **how,
        )
    elif isinstance(outcome, bytes):
        logger.info("job done", **how)
    else:
        logger.warning(
            "job failed",
            code=outcome.code.value,
            detail=outcome.detail,
            error_id=outcome.extensions.get("error_id"),
            **how,
        )
