"""The pulse of a child, by which its supervisor tells a frozen process from one that works.

The child's event loop writes a byte a second into a pipe. A process that is stopped (SIGSTOP), that
is stuck in a call which holds the GIL, or whose event loop is blocked is alive for the kernel, and
writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from types import TracebackType
from typing import Final, Self

__all__ = ["LEAST_SILENCE_S", "Pulse", "beat"]

PULSE_S: Final = 1.0
LOOK_S: Final = 1.0
LEAST_SILENCE_S: Final = 5.0  # a busy machine may keep an event loop waiting for seconds


class Pulse:
    """The supervisor's side, one per child. Pass `fd` as one of its `pass_fds`.

    start_s: how long the child may take to its first beat: it imports torch meanwhile. silence_s:
    how long it may be silent after that.
    """

    def __init__(self, *, start_s: float, silence_s: float) -> None:
        self._start_s = start_s
        self._silence_s = max(silence_s, LEAST_SILENCE_S)
        self._reading, self.fd = os.pipe()
        os.set_blocking(self._reading, False)
        self.is_frozen = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.child_has_it()
        os.close(self._reading)

    def child_has_it(self) -> None:
        """Close the supervisor's copy of the child's end; safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    async def stops(self) -> float:
        """Returns when the child is frozen; for how long it had been silent, in seconds.

        Counts looks and not the time between them: after a sleep of the machine, or the pause of a
        container, the child has as many seconds as ever to be heard again, whichever of the two is
        woken first and whatever the clocks made of it.
        """
        limit_s, silent = self._start_s, 0
        while silent < math.ceil(limit_s / LOOK_S):
            await asyncio.sleep(LOOK_S)
            silent += 1
            if self._is_heard():
                limit_s, silent = self._silence_s, 0
        self.is_frozen = True
        return silent * LOOK_S

    def _is_heard(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._reading, 1 << 16) != b""
        return False


async def beat(fd: int) -> None:
    """The child's side: runs beside all else in its event loop, until it is cancelled."""
    os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
    os.set_blocking(fd, False)
    while True:
        # full: the supervisor itself stands still; broken: it is gone, which the lifeline tells
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(fd, b".")
        await asyncio.sleep(PULSE_S)
