"""How much a request may compute, and how much it has."""

from __future__ import annotations

import math
import threading
import time

from camserve.errors import Canceled, OverBudget

__all__ = ["Budget"]

_REMEDY = (
    "send fewer inputs at once, name a layer with fewer channels, give method_options.channels, or "
    "evaluate with fewer steps"
)


class Budget:
    """Forward passes of single inputs, and the time for them. One for each request.

    passes, seconds: the limits, none by default. The time runs from the start. withdrawn: is set,
    by another thread, once nobody wants the result any more. `spent` counts the passes that were
    made.
    """

    def __init__(
        self,
        passes: float = math.inf,
        seconds: float = math.inf,
        withdrawn: threading.Event | None = None,
    ) -> None:
        self._passes = passes
        self._seconds = seconds
        self._withdrawn = withdrawn
        self._started_s = time.monotonic()
        self.spent = 0

    def reserve(self, passes: int) -> None:
        """Raises OverBudget if so many more passes are not granted; before any is made."""
        if self.spent + passes > self._passes:
            raise OverBudget(
                f"{self.spent + passes} forward passes are needed and {self._passes:.0f} are "
                f"granted: {_REMEDY}",
                needed=self.spent + passes,
                limit=int(self._passes),
            )

    def spend(self, passes: int) -> None:
        """Note passes that are about to be made. Raises OverBudget if the time is up, Canceled if
        nobody wants the result any more."""
        if self._withdrawn is not None and self._withdrawn.is_set():
            raise Canceled
        elapsed_s = time.monotonic() - self._started_s
        if elapsed_s > self._seconds:
            raise OverBudget(
                f"{self.spent} forward passes took longer than the {self._seconds:.0f} s that are "
                f"granted: {_REMEDY}",
                limit_s=self._seconds,
                done=self.spent,
            )
        self.spent += passes
