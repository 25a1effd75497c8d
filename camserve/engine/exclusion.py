"""Tracing and computing exclude each other, in the whole process.

While torch traces a network it patches what all modules of all threads are called by, and puts
stand-ins in the place of the traced ones' weights: who computes meanwhile meets either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["computing", "tracing"]

_changed = threading.Condition()
_depths: dict[int, int] = {}
"""How often each thread that computes has entered."""
_tracers: list[int] = []
"""Threads that trace, or wait until they may: the first does."""


@contextmanager
def computing() -> Iterator[None]:
    """Nobody traces meanwhile but this thread. Any number of threads may compute, and again inside
    of what they compute."""
    me = threading.get_ident()
    with _changed:
        if me not in _depths:  # who is inside already is what a tracer waits for
            _changed.wait_for(lambda: not _tracers or _tracers[0] == me)
        _depths[me] = _depths.get(me, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _depths[me] -= 1
            if not _depths[me]:
                del _depths[me]
            _changed.notify_all()


@contextmanager
def tracing() -> Iterator[None]:
    """Nobody else computes or traces meanwhile. Not to be entered from inside `computing`."""
    me = threading.get_ident()
    with _changed:
        _tracers.append(me)
        try:
            _changed.wait_for(lambda: _tracers[0] == me and not _depths)
        except BaseException:
            _tracers.remove(me)
            raise
    try:
        yield
    finally:
        with _changed:
            _tracers.remove(me)
            _changed.notify_all()
