"""How long batches take on this worker: medians for people, and what to expect of the next."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

from camserve.contracts.cards import ServiceTimes

__all__ = ["Measured"]

REMEMBERED: Final = 100  # batches a model and kind of job
OF_LATE: Final = 8  # the last of them


class Measured:
    """The batches of one worker, by model and kind of job."""

    def __init__(self) -> None:
        self._latest_ms: dict[str, dict[str, deque[float]]] = {}

    def learn(self, model: str, kind: str, took_ms: float) -> None:
        """One more batch."""
        of_kinds = self._latest_ms.setdefault(model, {})
        of_kinds.setdefault(kind, deque(maxlen=REMEMBERED)).append(took_ms)

    def longest_ms(self, model: str, kind: str) -> float:
        """Of the last OF_LATE batches; infinite if there was none."""
        times = self._latest_ms.get(model, {}).get(kind)
        return max(list(times)[-OF_LATE:]) if times else math.inf

    def medians(self) -> dict[str, ServiceTimes]:
        """Of the last REMEMBERED batches, of each model that had any."""
        return {
            model: ServiceTimes(
                **{kind: round(statistics.median(times), 3) for kind, times in of_kinds.items()}
            )
            for model, of_kinds in self._latest_ms.items()
        }
