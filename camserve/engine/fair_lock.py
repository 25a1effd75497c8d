"""A lock that goes to whoever has waited longest."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["FairLock"]


class FairLock:
    """First come, first served; a context manager, which must not be entered again inside.

    `threading.Lock` goes to whoever asks while it is free: of a thread that takes it again and
    again, to that thread, however long others have waited.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()  # whoever leaves lets it go, and is no longer the holder
        except BaseException:  # as by Ctrl-C
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._hand_on()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._is_held = False
