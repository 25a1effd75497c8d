"""News of jobs: one subscription per process, shared by all its waiters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from camserve.broker.connection import is_outage

__all__ = ["Notifications"]

_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 1.0
_QUIET_S = 5.0
"""After that long without a word the server is asked for one, and has as long to answer."""

_log = logging.getLogger(__name__)


class Notifications:
    """Wakes those who wait for a job when its id comes over a channel that they listen to.

    It subscribes for ever: a lost connection is made anew. Whatever was published in between is
    lost, so each confirmed subscription wakes everybody to look for themselves.
    """

    def __init__(self, redis: Redis, *channels: str) -> None:
        self._redis = redis
        self._channels = channels
        self._waiters: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._unheard_of: set[tuple[str, str]] = set()
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
    def listening(self, job_id: str, *channels: str) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news of the job on one of the channels."""
        event = asyncio.Event()
        for channel in channels:
            self._waiters.setdefault((channel, job_id), set()).add(event)
        try:
            yield event
        finally:
            for channel in channels:
                waiters = self._waiters[channel, job_id]
                waiters.discard(event)
                if not waiters:
                    del self._waiters[channel, job_id]

    def expect(self, job_id: str, channel: str) -> None:
        """Remember from now on whether there was news of the job, until somebody asks."""
        if self._confirmed.is_set():
            self._unheard_of.add((channel, job_id))

    def was_heard_of(self, job_id: str, channel: str) -> bool:
        """Whether there may have been news since `expect`. To be asked once."""
        subject = (channel, job_id)
        is_unheard_of = subject in self._unheard_of
        self._unheard_of.discard(subject)
        return not is_unheard_of

    def wake_all(self) -> None:
        """Have everybody look for themselves."""
        self._unheard_of.clear()
        self._wake(*self._waiters)

    async def _stay_subscribed(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                if not is_outage(error):
                    _log.exception("the subscription to %s failed", self._names)
            if self._confirmed.is_set():
                _log.warning("lost the subscription to %s; subscribing again", self._names)
                self._confirmed.clear()
                retry_s = _FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(*self._channels)
            while True:
                message = await _next_word(subscription)
                if message["type"] == "subscribe":
                    # Also after a reconnection that redis-py made by itself.
                    if message["channel"].decode() == self._channels[-1]:
                        self._confirmed.set()  # they are confirmed in the order of the request
                    self.wake_all()
                elif message["type"] == "message":
                    self._wake((message["channel"].decode(), message["data"].decode()))

    @property
    def _names(self) -> str:
        return " and ".join(self._channels)

    def _wake(self, *subjects: tuple[str, str]) -> None:
        for subject in subjects:
            self._unheard_of.discard(subject)
            for event in self._waiters.get(subject, ()):
                event.set()


async def _next_word(subscription: PubSub) -> dict[str, Any]:
    """What the server says next, of news or only that it is there.

    Raises ConnectionError for one that says nothing: who only listens would never be told that
    the other end is gone.
    """
    word = await subscription.get_message(timeout=_QUIET_S)
    if word is None:
        await subscription.ping()
        word = await subscription.get_message(timeout=_QUIET_S)
    if word is None:
        raise RedisConnectionError("the subscription is dead: a ping was not answered")
    return dict(word)
