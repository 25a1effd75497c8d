"""What the front end may ask of jobs: how they are, what came of them, when that changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.job_ids import model_of
from camserve.broker.looks import look, seen
from camserve.broker.notifications import Notifications
from camserve.broker.options import QueueOptions
from camserve.broker.records import JobRecord
from camserve.broker.scripts import call, execute
from camserve.contracts.states import State
from camserve.errors import QueueUnavailable

__all__ = ["JobReader", "model_or_none"]

_START_PATIENCE_S = 2.0


class JobReader:
    """The reading half of `JobQueue`. All methods raise QueueUnavailable when the server is away.

    An id that is no job id is the id of no job: `get` and its like return None for it.
    """

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options
        self._notifications = Notifications(redis, keys.DONE, keys.NEWS, keys.DELIVERIES)
        self._waits_are_over = False

    async def start(self) -> None:
        """Subscribes to the news of jobs. Does not fail when the server is away."""
        await self._notifications.start(_START_PATIENCE_S)

    async def aclose(self) -> None:
        """Ends the subscription. The connection belongs to the caller."""
        await self._notifications.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def news_of_deliveries(self) -> contextlib.AbstractContextManager[asyncio.Event]:
        """An event that is set when there may be something to deliver."""
        return self._notifications.listening("", keys.DELIVERIES)

    async def get(self, job_id: str) -> JobRecord | None:
        """The job as it is now, with its result if that is small; None if there is none (any
        more)."""
        return await self._look(job_id)

    async def result(self, job_id: str) -> bytes | None:
        """The result of a succeeded job; None for any other."""
        model = model_or_none(job_id)
        if model is None:
            return None
        (value,) = await execute(self._redis, ("GET", keys.result(model, job_id)))
        return value if isinstance(value, bytes) else None

    async def attachment(self, job_id: str, name: str) -> bytes | None:
        """What was attached to the job under `name`."""
        model = model_or_none(job_id)
        if model is None:
            return None
        (value,) = await execute(self._redis, ("HGET", keys.attachments(model, job_id), name))
        return value if isinstance(value, bytes) else None

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord | None:
        """The job as soon as it is closed, with its result if that is small, else as it is after
        `timeout_s`; None if it is missing.

        Woken by a notification, and if all are lost by a look of its own every `fallback_look_s`.
        It looks at once, too, but for a job that was accepted here and not heard of since.
        A job that is missing before its deadline was lost with the server: enqueue it again.
        Outlasts an outage of the server; raises QueueUnavailable if it still lasts at the end.
        After `end_waits` its time is up, whatever it was.
        """
        end_s = asyncio.get_running_loop().time() + timeout_s
        with self._notifications.listening(job_id, keys.DONE) as news:
            if self._notifications.was_heard_of(job_id, keys.DONE):
                news.set()
            while True:
                pause_s = min(self._options.fallback_look_s, self._left_s(end_s))
                if pause_s > 0 and not news.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await news.wait()
                left_s = self._left_s(end_s)
                news.clear()
                try:
                    # A server that hangs must not hold the caller for a whole socket timeout.
                    async with asyncio.timeout(max(left_s, self._options.fallback_look_s)):
                        record = await self._look(job_id)
                except (QueueUnavailable, TimeoutError) as error:
                    if self._left_s(end_s) <= 0:
                        raise QueueUnavailable from error
                else:
                    if record is None or record.is_terminal or left_s <= 0:
                        return record

    def _left_s(self, end_s: float) -> float:
        """Until a wait ends, which may be past its end."""
        return 0.0 if self._waits_are_over else end_s - asyncio.get_running_loop().time()

    def end_waits(self) -> None:
        """For a front end that stops: whoever waits, or will, has the job as it is."""
        self._waits_are_over = True
        self._notifications.wake_all()

    def answered(self, command_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when a worker may have answered a command."""
        return self._notifications.listening(command_id, keys.DONE)

    async def follow(self, job_id: str) -> AsyncIterator[JobRecord | None]:
        """The job as it is, at once and whenever it may have changed, until it is closed or gone.

        It may be the same again: there is a look every `fallback_look_s` at least. None says that
        the server is away and nothing is known now.
        """
        with self._notifications.listening(job_id, keys.DONE, keys.NEWS) as news:
            while True:
                news.clear()
                try:
                    record = await self._look(job_id)
                except QueueUnavailable:
                    yield None
                else:
                    if record is None:
                        return
                    yield record
                    if record.is_terminal:
                        return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.fallback_look_s):
                        await news.wait()

    async def placed(self, record: JobRecord) -> tuple[JobRecord, int | None]:
        """A job with its place in the queue: how many of its model are before it, 0 for the next.

        None for a job that does not wait; one that began meanwhile comes as it is by now.
        """
        if record.state is not State.QUEUED:
            return record, None
        (ahead,) = await execute(
            self._redis, call("position", [keys.prefix(record.model)], record.id)
        )
        if ahead is None:
            return await self._look(record.id) or record, None
        return record, int(ahead)

    async def depth(self, model: str) -> int:
        """Open jobs of the model, queued and running."""
        (depth,) = await execute(self._redis, call("depth", [keys.prefix(model)]))
        return int(depth)

    async def _look(self, job_id: str) -> JobRecord | None:
        model = model_or_none(job_id)
        if model is None:
            return None
        return seen(job_id, model, *await execute(self._redis, *look(model, job_id)))


def model_or_none(job_id: str) -> str | None:
    """The model that a job id names; None if it is no job id."""
    try:
        return model_of(job_id)
    except ValueError:
        return None
