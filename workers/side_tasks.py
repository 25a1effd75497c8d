"""What runs beside a worker's batches: loads, and the jobs that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

__all__ = ["SideTasks"]


class SideTasks:
    """True while there are any."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def done(self) -> None:
        """Return when those are done that run now."""
        if self._tasks:
            await asyncio.wait(self._tasks)
