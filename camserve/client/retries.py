"""When a call is made again, and when no more."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Final

from camserve.client.answers import error_in, problem_in
from camserve.client.calls import Answer, Lost
from camserve.client.errors import ClientError, Unreachable
from camserve.retry_after import seconds_of

__all__ = ["Budget", "Patience", "Retries", "Wait", "unreachable"]

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
_GATEWAY: Final = (502, 503, 504)
# what waiting does not mend
_FOR_PEOPLE: Final = (
    *("model_unavailable", "invalid_card", "unsupported_model"),
    "model_quarantined",
)


@dataclass(frozen=True)
class Patience:
    """timeout_s: for a call in all, with its retries and the wait for its result. reconnect_s: of
    these, how long a service that does not answer at all is tried again."""

    timeout_s: float = 120.0
    reconnect_s: float = 10.0


@dataclass(frozen=True)
class Budget:
    """The time of one call, from now on."""

    seconds: float
    started_s: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108

    @property
    def left_s(self) -> float:
        return max(self.started_s + self.seconds - time.monotonic(), 0.0)


@dataclass(frozen=True)
class Wait:
    """A pause before the next attempt, and what it is for."""

    seconds: float
    reason: str


class Retries:
    """The retries of one call.

    The service says itself when to come again (`Retry-After`, with 429 and 503): that is done for
    as long as the call has time. A connection that fails, or a gateway that finds no service behind
    it, is tried again with growing pauses for `reconnect_s`. Nothing else is repeated.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._silence = 0
        self._silent_since_s = 0.0

    def after(self, outcome: Answer | Lost) -> Wait | None:
        """The pause before the next attempt, if there is to be one; else `outcome` is final."""
        if isinstance(outcome, Lost):
            return self._after_silence(unreachable(outcome))
        error = error_in(outcome)
        if error is None:
            return None
        if outcome.status in _GATEWAY and problem_in(outcome) is None:
            return self._after_silence(error)
        self._silence = 0
        seconds = _retry_after_s(outcome)
        if seconds is None:
            return None
        # not all at once, those who were sent away together
        return Wait(seconds * random.uniform(1, 1.25), str(error))  # noqa: S311

    def _after_silence(self, error: ClientError) -> Wait | None:
        now_s = time.monotonic()
        if self._silence == 0:
            self._silent_since_s = now_s
        pause_s = min(FIRST_PAUSE_S * 2**self._silence, LONGEST_PAUSE_S) * random.uniform(0.75, 1)  # noqa: S311
        self._silence += 1
        if now_s + pause_s - self._silent_since_s > self._patience.reconnect_s:
            return None
        return Wait(pause_s, str(error))


def unreachable(lost: Lost) -> Unreachable:
    """What it means that an attempt had no answer."""
    reason = " ".join(str(lost.error).split()) or type(lost.error).__name__
    where = lost.url.copy_with(raw_path=b"/")
    return Unreachable(f"no camserve answers at {where} ({reason}): is it running there?")


def _retry_after_s(answer: Answer) -> float | None:
    """What the service says with 429 and 503; None if it does not say, or a person is needed."""
    problem = problem_in(answer) or {}
    if answer.status not in (429, 503) or problem.get("code") in _FOR_PEOPLE:
        return None
    seconds = seconds_of(answer.headers.get("retry-after", ""))
    return None if seconds is None else max(seconds, FIRST_PAUSE_S)
