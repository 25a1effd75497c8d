"""The jobs that a worker has begun: their leases are renewed until they are committed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from camserve.broker import Begun, Claim, WorkerQueue
from camserve.errors import QueueUnavailable
from workers.compute import Outcome

__all__ = ["HeldJobs"]

logger = logging.getLogger(__name__)

Work = TypeVar("Work")


class HeldJobs:
    """What is in this worker's hands. Each job taken is committed once, whatever happens to it."""

    def __init__(self, queue: WorkerQueue) -> None:
        self._queue = queue
        self._held: dict[str, Begun] = {}
        self._waiting: tuple[Claim, ...] = ()

    def take(self, begun: Iterable[Begun]) -> None:
        self._held |= {job.job_id: job for job in begun}

    async def extend(self) -> None:
        """Renew all leases. Raises QueueUnavailable."""
        held: list[Begun | Claim] = [*self._held.values(), *self._waiting]
        await self._queue.extend(held)

    @contextlib.contextmanager
    def keeping(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Renew the leases of `claims` too, which are not begun yet."""
        self._waiting = tuple(claims)
        try:
            yield
        finally:
            self._waiting = ()

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
