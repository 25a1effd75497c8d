"""Lines leave a process by a thread of their own, so that nobody waits for who reads them.

A pipe whose reader has stopped is full after 64 KB, and a write to it then blocks: an event loop
that wrote its own lines would answer nobody, and a worker's would let its leases run out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from typing import Final

__all__ = ["Outlet"]

MOST_WAITING: Final = 10_000  # lines, of some 300 bytes each
FLUSH_S: Final = 2.0


class Outlet(logging.Handler):
    """Formats where the event happens, with that context, and writes elsewhere.

    When `MOST_WAITING` lines wait, further ones are dropped and counted; a line says how many, once
    there is room. `flush`, which the standard library calls at exit, waits `FLUSH_S` at most.

    The thread is no QueueListener: that one's handlers have locks, which it holds while it writes,
    and for which the end of the interpreter would wait. Nor does it write through sys.stderr, for
    the same reason.
    """

    def __init__(self, formatter: logging.Formatter, fd: int) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._waiting: queue.Queue[str] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        threading.Thread(
            target=_write_all, args=(self._waiting, fd), name="log", daemon=True
        ).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - what cannot be said costs its line, and no request
            lost = _record(record.name, logging.ERROR, "an event could not be written")
            line = self.format(lost)
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1
            return
        if self._dropped:
            lost = _record(__name__, logging.WARNING, "log lines were dropped")
            lost.lines = self._dropped
            with contextlib.suppress(queue.Full):  # it is said later
                self._waiting.put_nowait(self.format(lost))
                self._dropped = 0

    def flush(self) -> None:
        waiting = self._waiting
        with waiting.all_tasks_done:
            waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, FLUSH_S)


def _record(name: str, level: int, event: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 0, event, None, None)


def _write_all(lines: queue.Queue[str], fd: int) -> None:
    while True:
        # in one piece: others write to the same pipe
        rest = f"{lines.get()}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # nobody is there to be told
            while rest:
                rest = rest[os.write(fd, rest) :]
        lines.task_done()
