"""Several at once, or one alone: whose turn it is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """As they came, up to `at_once` side by side; one that must be alone waits until no other goes,
    and no other begins meanwhile."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._line: deque[tuple[bool, asyncio.Future[None]]] = deque()
        self._going = 0
        self._one_is_alone = False

    @property
    def going(self) -> int:
        """How many go now."""
        return self._going

    @asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        gate = asyncio.get_running_loop().create_future()
        self._line.append((alone, gate))
        self._admit()
        try:
            await gate
            yield
        finally:
            if gate.done() and not gate.cancelled():
                self._going -= 1
                self._one_is_alone = self._one_is_alone and self._going > 0
            self._admit()

    def _admit(self) -> None:
        while self._line:
            alone, gate = self._line[0]
            if not gate.done():
                most = 1 if alone or self._one_is_alone else self._at_once
                if self._going >= most:
                    return
                self._going += 1
                self._one_is_alone = alone
                gate.set_result(None)
            self._line.popleft()  # a gate that was done here was given up in the line
