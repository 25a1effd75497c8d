"""How a run over many files shows where it is: a bar on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from camserve.commands.service import messages
from camserve.commands.tally import Tally

__all__ = ["Reporter", "reporter_of"]

LINE_EVERY_S = 5.0


class Reporter(AbstractContextManager["Reporter"]):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to take away."""

    def advance(self) -> None:
        """One more file is done."""

    def say(self, text: str) -> None:
        """Something that people should know now."""


class Lines(Reporter):
    """A line now and then, for logs."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._next_s = time.monotonic() + LINE_EVERY_S

    def advance(self) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            self.say(_text(self._tally))

    def say(self, text: str) -> None:
        self._console.print(text)


class Bar(Reporter):
    """A progress bar, with what is said above it."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._progress = Progress(
            TextColumn("explaining"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=tally.total, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self) -> None:
        tally = self._tally
        failed = f", {tally.failed} failed" if tally.failed else ""
        self._progress.update(
            self._task, completed=tally.done, rate=f"{tally.per_second:.1f}/s{failed}"
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text)


def reporter_of(tally: Tally, *, silent: bool) -> Reporter:
    """silent: for scripts."""
    if silent:
        return Reporter()
    console = messages()
    return Bar(tally, console) if console.is_terminal else Lines(tally, console)


def _text(tally: Tally) -> str:
    failed = f", {tally.failed} failed" if tally.failed else ""
    rate = tally.per_second
    left = f", about {tally.left / rate:.0f} s left" if rate > 0 else ""
    return f"{tally.done} of {tally.total}{failed}, {rate:.1f}/s{left}"
