"""The jobs that a worker has begun: their leases are renewed until they are committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from camserve.broker import Begun, WorkerQueue
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.errors import ErrorCode, QueueUnavailable
from workers.attempts import Outcome
from workers.progress import Progress

__all__ = ["HeldJobs"]

logger = logging.getLogger(__name__)

Work = TypeVar("Work")


class HeldJobs:
    """What is in this worker's hands. Each job taken is committed once, whatever happens to it."""

    def __init__(self, queue: WorkerQueue) -> None:
        self._queue = queue
        self._held: dict[str, Begun] = {}
        self.progress = Progress()

    def take(self, begun: Iterable[Begun]) -> None:
        self._held |= {job.job_id: job for job in begun}

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
            return Job.model_validate_json(begun.document)
        except ValidationError as error:
            logger.error(  # noqa: TRY400 - the traceback would say no more
                "job %s has a document that this version of camserve cannot read: %s",
                begun.job_id,
                error.errors(include_input=False)[0]["msg"],
            )
            failure = FailureMessage(
                code=ErrorCode.INTERNAL,
                detail="unreadable job document: do the API and the workers have the same version?",
            )
            await self.commit(begun, failure)
            return None

    async def commit(self, begun: Begun, outcome: Outcome) -> None:
        """Finish or fail the job; the queue refuses if another worker owns it by now."""
        try:
            if isinstance(outcome, bytes):
                committed = await self._queue.finish(begun, outcome)
            else:
                committed = await self._queue.fail(begun, outcome.model_dump_json().encode())
            if not committed:
                logger.warning(
                    "job %s: the result came too late and was refused (the job was closed, or "
                    "another worker took it over)",
                    begun.job_id,
                )
        except QueueUnavailable:
            logger.warning("job %s: Redis is away; it will be done again", begun.job_id)
        except Exception:
            logger.exception(
                "job %s: Redis refused the result; it will be done again", begun.job_id
            )
        finally:
            self._held.pop(begun.job_id, None)

    async def commit_all(self, begun: Sequence[Begun], outcomes: Sequence[Outcome]) -> None:
        await asyncio.gather(*map(self.commit, begun, outcomes))

    async def drop_unwanted(self, work: Sequence[tuple[Begun, Work]]) -> list[tuple[Begun, Work]]:
        """The jobs that somebody still waits for; canceled and closed ones leave our hands."""
        try:
            gone = await asyncio.gather(*(self._queue.is_canceled(job) for job, _ in work))
        except QueueUnavailable:
            return list(work)  # when in doubt, compute: the commit is fenced
        for (job, _), unwanted in zip(work, gone, strict=True):
            if unwanted:
                await self.commit(job, b"")  # closes one whose cancel was asked for
        return [one for one, unwanted in zip(work, gone, strict=True) if not unwanted]
