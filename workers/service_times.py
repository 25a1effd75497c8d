"""How long batches take on this worker: an average for the queue, medians for people."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from camserve.contracts.cards import ServiceTimes

__all__ = ["Measured"]

SMOOTHING: Final = 0.2  # weight of the newest batch in the average
REMEMBERED: Final = 100  # batches a model and kind of job


class Measured:
    """The batches of one worker, by model and kind of job."""

    def __init__(self) -> None:
        self._average_ms: dict[str, float] = {}
        self._latest_ms: dict[str, dict[str, deque[float]]] = {}

    def learn(self, model: str, kind: str, took_ms: float) -> None:
        """One more batch."""
        average = self._average_ms.get(model, took_ms)
        self._average_ms[model] = average + SMOOTHING * (took_ms - average)
        of_kinds = self._latest_ms.setdefault(model, {})
        of_kinds.setdefault(kind, deque(maxlen=REMEMBERED)).append(took_ms)

    def average_ms(self, model: str) -> float:
        """Exponential mean of all batches of the model; 0 if there was none."""
        return self._average_ms.get(model, 0.0)

    def medians(self) -> dict[str, ServiceTimes]:
        """Of the last REMEMBERED batches, of each model that had any."""
        return {
            model: ServiceTimes(
                **{kind: round(statistics.median(times), 3) for kind, times in of_kinds.items()}
            )
            for model, of_kinds in self._latest_ms.items()
        }
