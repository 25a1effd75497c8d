"""Lines leave a process by a thread of their own, so that nobody waits for who reads them.

A pipe whose reader has stopped is full after 64 KB, and a write to it then blocks: an event loop
that wrote its own lines would answer nobody, and a worker's would let its leases run out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
from logging.handlers import QueueHandler, QueueListener
from typing import Final

__all__ = ["Outlet"]

MOST_WAITING: Final = 10_000  # lines, of some 300 bytes each
FLUSH_S: Final = 2.0


class Outlet(QueueHandler):
    """Formats where the event happens, with that context, and writes elsewhere.

    When `MOST_WAITING` lines wait, further ones are dropped and counted; a line says how many, once
    there is room. `flush`, which the standard library calls at exit, waits `FLUSH_S` at most.
    """

    def __init__(self, formatter: logging.Formatter, fd: int) -> None:
        self._waiting: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
        super().__init__(self._waiting)
        self.setFormatter(formatter)
        self._dropped = 0
        self._listener = QueueListener(self._waiting, _Lines(fd))
        self._listener.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(record)
            if self._dropped:
                lost = logging.LogRecord(
                    __name__, logging.WARNING, __file__, 0, "log lines were dropped", None, None
                )
                lost.lines = self._dropped
                self._waiting.put_nowait(self.prepare(lost))
                self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """A field that cannot be written costs its line, and is no traceback in between."""
        lost = logging.LogRecord(
            record.name, logging.ERROR, __file__, 0, "an event could not be written", None, None
        )
        with contextlib.suppress(Exception):
            self.enqueue(self.prepare(lost))

    def flush(self) -> None:
        waiting = self._waiting
        with waiting.all_tasks_done:
            waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, FLUSH_S)


class _Lines(logging.Handler):
    """Writes each record's message as a line, in one piece: others write to the same pipe.

    Not through sys.stderr, whose lock a blocked thread would hold while the interpreter ends.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        rest = f"{record.msg}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # nobody is there to be told
            while rest:
                rest = rest[os.write(self._fd, rest) :]
