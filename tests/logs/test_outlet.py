"""Whoever logs does not wait for whoever reads the log."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterator

import pytest

from camserve.logs import outlet
from camserve.logs.outlet import Outlet

ENOUGH = 3_000  # lines of this test's, to fill a pipe and what waits behind it


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def logger_to(handler: logging.Handler) -> logging.Logger:
    """One that nobody else hears."""
    logger = logging.Logger("alone", logging.INFO)  # noqa: LOG001
    logger.addHandler(handler)
    return logger


def test_a_reader_that_stopped_holds_nobody_up(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr(outlet, "MOST_WAITING", 100)
    monkeypatch.setattr(outlet, "FLUSH_S", 0.01)
    handler = Outlet(logging.Formatter("%(message)s %(lines)s", defaults={"lines": ""}), writing)
    logger = logger_to(handler)
    for number in range(ENOUGH):  # a write in this thread would wait for ever
        logger.info("%04d %s", number, "x" * 200)
    handler.flush()  # neither does the end of a process wait
    parts: list[bytes] = []
    reader = threading.Thread(
        target=lambda: parts.extend(iter(lambda: os.read(reading, 9999), b""))
    )
    reader.start()
    handler._waiting.join()  # there is room
    logger.info("again")
    handler._waiting.join()
    os.close(writing)
    reader.join()
    lines = b"".join(parts).decode().splitlines()
    numbers = [int(line[:4]) for line in lines if line[0].isdigit()]
    dropped = [int(line.split()[-1]) for line in lines if line.startswith("log lines were dropped")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(dropped) == ENOUGH
    assert sum(dropped) > 0
    assert "again " in lines[-2:]


def test_a_line_that_found_room_is_not_counted_as_dropped(pipe: tuple[int, int]) -> None:
    """Although there is none left for saying how many were."""
    handler = Outlet(logging.Formatter("%(message)s %(lines)s", defaults={"lines": ""}), pipe[1])
    handler._waiting = waiting = queue.Queue(2)  # nobody takes anything out
    logger = logger_to(handler)
    for event in ("first", "second", "dropped"):
        logger.info(event)
    assert waiting.get_nowait() == "first "
    logger.info("third")
    assert [waiting.get_nowait() for _ in range(2)] == ["second ", "third "]
    logger.info("fourth")
    assert [waiting.get_nowait() for _ in range(2)] == ["fourth ", "log lines were dropped 1"]
    os.close(pipe[1])


def test_a_stream_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    os.close(writing)
    handler = Outlet(logging.Formatter("%(message)s"), writing)
    logger_to(handler).info("nobody hears it")
    handler.flush()
    assert not handler._waiting.unfinished_tasks
