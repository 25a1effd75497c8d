"""A worker's rhythm: what is done again and again, and what waits for Redis or for the stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from camserve.errors import QueueUnavailable

__all__ = ["OUTAGE_PAUSE_S", "Pacing", "end"]

logger = logging.getLogger(__name__)

OUTAGE_PAUSE_S = 0.5


class Pacing:
    """One per worker; knows whether it is told to stop, and whether Redis is away."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._redis_is_away = False

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    async def every(self, period_s: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do it again and again, whatever goes wrong: without it, leases would run out unseen."""
        while True:
            try:
                await work()
            except QueueUnavailable:
                self._note_redis(is_away=True)
            except Exception:
                logger.exception("a background task of the worker failed and goes on")
            else:
                self._note_redis(is_away=False)
            await asyncio.sleep(period_s)

    async def persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat until Redis answers, or until told to stop."""
        while not self._stopping.is_set():
            try:
                await work()
            except QueueUnavailable:
                self._note_redis(is_away=True)
                await self.pause(OUTAGE_PAUSE_S)
            else:
                self._note_redis(is_away=False)
                return

    def _note_redis(self, *, is_away: bool) -> None:
        """Say it once, whoever found out."""
        if is_away and not self._redis_is_away:
            logger.warning("Redis is away: waiting for it")
        elif self._redis_is_away and not is_away:
            logger.info("Redis is back")
        self._redis_is_away = is_away

    async def unless_stopped(self, work: Awaitable[None]) -> None:
        """Wait for the work, or give it up when told to stop."""
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
        task.cancel()

    async def until(self, work: asyncio.Future[None], seconds: float) -> None:
        """Wait for it, for so long at most, and no longer than until told to stop."""
        stop = asyncio.create_task(self._stopping.wait())
        first: list[asyncio.Future[Any]] = [work, stop]
        await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()

    async def pause(self, seconds: float) -> None:
        """Sleep, but wake at once when told to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks, and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
