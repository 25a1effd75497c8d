"""When a delivery that failed is tried again, and how long all of it may take."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

__all__ = ["Schedule"]

_FACTOR: Final = 4.0
_LONGEST_S: Final = 6 * 3600.0
_LONGEST_WISH_S: Final = 3600.0
_JITTER: Final = 0.2


@dataclass(frozen=True)
class Schedule:
    """Exponential back-off: after `first_s`, then four times as long each, at most six hours.

    attempts: in all. timeout_s: of one. silence_s: how long a front end may not be heard of before
    what it attempts is taken for abandoned.
    """

    attempts: int
    first_s: float
    timeout_s: float
    silence_s: float

    @property
    def lease_s(self) -> float:
        """How long one attempt may take before another front end makes it."""
        return self.timeout_s + self.silence_s

    @property
    def life_s(self) -> float:
        """Time within which the last attempt has ended, whatever receivers wish."""
        waits = (
            max(self._wait_s(attempt) * (1 + _JITTER), _LONGEST_WISH_S)
            for attempt in range(1, self.attempts)
        )
        return sum(waits) + self.attempts * self.lease_s

    def delay_s(self, attempts: int, wish_s: float | None = None) -> float | None:
        """Until the next attempt, after `attempts` of them; None if that was the last.

        wish_s: what the receiver asked for, which is honoured up to an hour. Jitter keeps the
        deliveries that failed together from coming back together.
        """
        if attempts >= self.attempts:
            return None
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - nobody gains by guessing it
        return max(self._wait_s(attempts) * spread, min(wish_s or 0.0, _LONGEST_WISH_S))

    def _wait_s(self, attempts: int) -> float:
        return min(self.first_s * _FACTOR ** (attempts - 1), _LONGEST_S)
