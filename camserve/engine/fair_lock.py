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
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        """Whoever holds it, then those who wait."""

    def __enter__(self) -> None:
        turn = object()
        with self._changed:
            self._line.append(turn)
            try:
                self._changed.wait_for(lambda: self._line[0] is turn)
            except BaseException:  # as by Ctrl-C
                self._line.remove(turn)
                self._changed.notify_all()
                raise

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._line.popleft()
            self._changed.notify_all()
