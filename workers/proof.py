"""Proof, again and again, that a worker's device can explain: it may fail long after the start.

A device that was reset, or whose context an assertion in a kernel has poisoned, fails each job in a
moment, and so would take them faster than any other worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from functools import partial
from typing import NoReturn

from camserve.logs import flush_logs
from workers.device_thread import DeviceThread
from workers.warm_up import warm_up

__all__ = ["UNFIT_EXIT_CODE", "Proof"]

logger = logging.getLogger(__name__)

UNFIT_EXIT_CODE = 71


class Proof:
    """One per worker. thread: the one that computes; an explanation of known outcome takes its turn
    there, some milliseconds, so that it delays no batch and is delayed by one at most.

    That other jobs succeed proves nothing: nobody knows whether their maps are right.
    """

    def __init__(self, thread: DeviceThread, device: str) -> None:
        self._thread = thread
        self._device = device
        self._passed_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since it was last given; None before the first time."""
        return None if self._passed_s is None else time.monotonic() - self._passed_s

    async def give(self, limit_s: float | None = None) -> None:
        """Explain and compare. Raises what the device raises; RuntimeError for a wrong map.

        limit_s: another one than that of a batch, for the first time, which makes the device's
        context.
        """
        call = partial(warm_up, self._device)
        await self._thread.run(call, "the warm-up network", limit_s=limit_s)
        self._passed_s = time.monotonic()

    async def renew(self) -> None:
        """Give it again, or end this process, whose jobs go to others."""
        try:
            await self.give()
        except Exception as error:  # noqa: BLE001 - whatever it is, jobs would fail of it
            _die_unfit(self._device, error)

    async def keep(self, every_s: float) -> None:
        """Renew it for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.renew()


def _die_unfit(device: str, error: Exception) -> NoReturn:
    """End this process: only a new one gets a device's context anew.

    At once: what it has not committed is redelivered, and what it would commit may be wrong.
    """
    logger.error(
        "%s explains no more what it explained before (%s: %s): the worker restarts",
        *(device, type(error).__name__, error),
    )
    flush_logs()
    os._exit(UNFIT_EXIT_CODE)
