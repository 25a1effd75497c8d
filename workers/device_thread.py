"""The one thread that computes, and what happens to a worker whose computation hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NoReturn, TypeVar

from camserve.contracts.cards import DeviceMemory
from camserve.logs import flush_logs
from workers.device_memory import device_memory
from workers.metrics import WorkerMetrics

__all__ = ["HUNG_EXIT_CODE", "DeviceThread", "die_hung"]

logger = logging.getLogger(__name__)

HUNG_EXIT_CODE = 70

Result = TypeVar("Result")


class DeviceThread:
    """Runs one computation at a time; the others wait, and their time does not run meanwhile."""

    def __init__(self, time_limit_s: float, metrics: WorkerMetrics, device: str) -> None:
        self._time_limit_s = time_limit_s
        self._metrics = metrics
        self._device = device
        self.memory: DeviceMemory | None = None
        """Of the device, after the last computation."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._free = asyncio.Lock()
        self._started = asyncio.Event()

    async def run(
        self, call: Callable[[], Result], model: str, *, limit_s: float | None = None
    ) -> tuple[Result, float]:
        """The result, and how long it took in ms. The process ends if it outlasts the limit.

        limit_s: another one than that of a batch.
        """
        clock = asyncio.get_running_loop()
        async with self._free:
            started_s = clock.time()
            # with the context: what is logged there is of the jobs that are computed
            running = clock.run_in_executor(
                self._thread, copy_context().run, self._measured, clock, call
            )
            done, _ = await asyncio.wait([running], timeout=limit_s or self._time_limit_s)
            if not done:
                die_hung("computing with", model)
            took_s = clock.time() - started_s
            self._metrics.busy(took_s)
            return await running, took_s * 1000

    def _measured(self, clock: asyncio.AbstractEventLoop, call: Callable[[], Result]) -> Result:
        clock.call_soon_threadsafe(self._started.set)
        result = call()
        self.memory = device_memory(self._device)
        return result

    async def wait_until_free(self) -> None:
        """Return when nothing computes."""
        async with self._free:
            return

    async def has_started_next(self, at_most_s: float) -> None:
        """Return when another computation has begun, or after that long.

        Until then the thread that computes needs the interpreter: whatever else is to be done
        meanwhile has time, and would have the device wait for it.
        """
        self._started.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._started.wait()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def die_hung(doing: str, model: str) -> NoReturn:
    """End this process: a hung kernel cannot be canceled, and leaving frees the device.

    The supervisor starts another one, and the jobs are redelivered.
    """
    logger.error("%s %s outlasted its time limit: the worker restarts", doing, model)
    flush_logs()
    os._exit(HUNG_EXIT_CODE)
