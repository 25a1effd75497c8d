"""News of closed jobs: one subscription per process, shared by all its waiters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from redis.asyncio import Redis
from redis.exceptions import RedisError

from camserve.broker.connection import is_outage

__all__ = ["Notifications"]

_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class Notifications:
    """Wakes those who wait for a job when its id comes over `channel`.

    It subscribes for ever: a lost connection is made anew. Whatever was published in between is
    lost, so each confirmed subscription wakes everybody to look for themselves.
    """

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._confirmed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, patience_s: float) -> None:
        """Returns once the subscription is confirmed, or after `patience_s` while it tries on."""
        if self._task is None:
            self._task = asyncio.create_task(self._stay_subscribed(), name="camserve-notifications")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._confirmed.wait()

    async def aclose(self) -> None:
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()  # redis-py may swallow one: see scripts.py
            await asyncio.wait([task], timeout=_FIRST_RETRY_S)

    @contextlib.contextmanager
    def listening(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news of the job."""
        event = asyncio.Event()
        self._waiters.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            waiters = self._waiters[job_id]
            waiters.discard(event)
            if not waiters:
                del self._waiters[job_id]

    async def _stay_subscribed(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                if not is_outage(error):
                    _log.exception("the subscription to %s failed", self._channel)
            if self._confirmed.is_set():
                _log.warning("lost the subscription to %s; subscribing again", self._channel)
                self._confirmed.clear()
                retry_s = _FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            while True:
                message = await subscription.get_message(timeout=None)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    # Also after a reconnection that redis-py made by itself.
                    self._confirmed.set()
                    self._wake(*self._waiters)
                elif message["type"] == "message":
                    self._wake(message["data"].decode())

    def _wake(self, *job_ids: str) -> None:
        for job_id in job_ids:
            for event in self._waiters.get(job_id, ()):
                event.set()
