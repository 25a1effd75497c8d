"""A network that knows whose input it sees, writes down that it computes, and does as it is told.

An input is (1, 8, 8), and its first row says all: the number of its job, what is to happen, a value
for that, and a mark by which the inputs of tests are told from those that camserve makes up itself.
What is not the number cancels out in the second row, so that the score of class c is
`number / 64 * (c + 1)`, exactly: a result tells whose it is.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor, nn

__all__ = ["CLASSES", "MARK", "SIDE", "Deed", "Numbered", "numbered"]

SIDE = 8
CLASSES = 3
MARK = 4096.0


class Deed(IntEnum):
    """What an input does to its worker."""

    NOTHING = 0
    SLEEP = 1  # for `value` ms
    RAISE = 2
    RAISE_UNPRINTABLE = 3
    KILL = 4
    SEGFAULT = 5
    HANG = 6
    HOLD_GIL = 7  # for `value` ms
    TOO_LARGE = 8
    WAIT = 9  # until the file `gate-<value>` is there, beside the journal


class Unprintable(Exception):
    """Nothing can be made of it: neither text, nor a pickle, nor a copy."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self) -> str:
        raise RuntimeError("no pickle")


class Numbered(nn.Module):
    """journal: file that gets a line for each computation that begins, and one if it raises.
    room: as many inputs fit on the device at once; 0: any number."""

    def __init__(self, journal: str, room: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, CLASSES, bias=False)
        nn.init.constant_(self.features.weight, 1.0)
        self.head.weight = nn.Parameter(torch.tensor([[(c + 1) / 2] * 2 for c in range(CLASSES)]))
        self.journal = Path(journal)
        self.room = room

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, 0, 0, :4].tolist()
        marked = [row[:3] for row in rows if row[3] == MARK]
        if marked:
            call = uuid4().hex
            self._note(call=call, inputs=[int(number) for number, _, _ in marked])
            try:
                self._check_room(len(rows))
                for _, deed, value in marked:
                    _do(Deed(int(deed)), value, self.journal.parent)
            except BaseException as error:
                self._note(call=call, raised=_kind(error))
                raise
        return self.head(self.features(x).mean((2, 3)))

    def _check_room(self, inputs: int) -> None:
        if self.room and inputs > self.room:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate 2.00 GiB for {inputs} inputs."
            )

    def _note(self, **entry: object) -> None:
        line = json.dumps({"pid": os.getpid(), "at_s": time.clock_gettime(0), **entry}) + "\n"
        # one write of few bytes: lines of several processes do not mix, and none is half
        fd = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def _kind(error: BaseException) -> str:
    """The name of its class, but for memory of a CPU, for which torch has none."""
    if type(error) is RuntimeError and "can't allocate memory" in str(error):
        return "OutOfMemoryError"
    return type(error).__name__


def _do(deed: Deed, value: float, folder: Path) -> None:
    if deed in _DEEDS:
        _DEEDS[deed](value)
    elif deed is Deed.RAISE:
        raise ArithmeticError("a secret of the model")
    elif deed is Deed.RAISE_UNPRINTABLE:
        raise Unprintable
    elif deed is Deed.WAIT:
        while not (folder / f"gate-{value:.0f}").exists():
            time.sleep(0.005)


_DEEDS: dict[Deed, Callable[[float], object]] = {
    Deed.SLEEP: lambda ms: time.sleep(ms / 1000),
    Deed.KILL: lambda _: os.kill(os.getpid(), signal.SIGKILL),
    Deed.SEGFAULT: lambda _: ctypes.string_at(0),
    Deed.HANG: lambda _: threading.Event().wait(),
    # PyDLL does not let go of it, as a bad extension does not
    Deed.HOLD_GIL: lambda ms: ctypes.PyDLL(None).usleep(int(ms * 1000)),
    # more than there are addresses
    Deed.TOO_LARGE: lambda _: torch.empty(1 << 46, dtype=torch.float64),
}


def numbered(journal: str, room: int = 0) -> nn.Module:
    return Numbered(journal, room)
