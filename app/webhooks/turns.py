"""Whose turn it is: a receiver that does not answer must not keep the others' news waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Turns"]

_SHARE: Final = 4
_MOST_REMEMBERED: Final = 1000


class Turns:
    """The places of a front end among receivers, each known by its origin.

    All of them are for whoever has news; but one that let its last attempt run out of time has a
    quarter of them until it answers.
    """

    def __init__(self, places: int) -> None:
        self._few = max(places // _SHARE, 1)
        self._taken: Counter[str] = Counter()
        self._silent: dict[str, None] = {}  # in the order in which they fell silent

    @contextmanager
    def taken(self, receiver: str) -> Iterator[bool]:
        """A place for as long as the context lasts; false if it has to wait."""
        if receiver in self._silent and self._taken[receiver] >= self._few:
            yield False
            return
        self._taken[receiver] += 1
        try:
            yield True
        finally:
            self._taken[receiver] -= 1
            if not self._taken[receiver]:
                del self._taken[receiver]

    def note(self, receiver: str, *, is_silent: bool) -> None:
        """How an attempt ended."""
        self._silent.pop(receiver, None)
        if is_silent:
            self._silent[receiver] = None
        if len(self._silent) > _MOST_REMEMBERED:
            del self._silent[next(iter(self._silent))]
