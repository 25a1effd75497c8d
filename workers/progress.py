"""How far the jobs in hand are: counted in the compute thread, read by the event loop."""

from __future__ import annotations

import threading
from collections.abc import Collection

from camserve.engine import Budget

__all__ = ["Progress"]


class Progress:
    """Forward passes that jobs have made, of those that they take. Jobs of one pass say nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Budget, int]] = {}
        self._told: dict[str, int] = {}

    def begin(self, job_id: str, budget: Budget, passes: int) -> None:
        """From now on `budget.spent` says how far the job is. In the compute thread."""
        if passes > 1:
            with self._lock:
                self._running[job_id] = (budget, passes)

    def news(self, held: Collection[str]) -> dict[str, tuple[int, int]]:
        """Passes made and passes in all of the jobs that got on since the last call.

        held: the jobs that are still in hand; the others are forgotten.
        """
        with self._lock:
            self._running = {one: self._running[one] for one in self._running if one in held}
            found = {
                job_id: (min(budget.spent, passes), passes)
                for job_id, (budget, passes) in self._running.items()
            }
        self._told = {job_id: done for job_id, done in self._told.items() if job_id in found}
        fresh = {
            job_id: one for job_id, one in found.items() if one[0] != self._told.get(job_id, 0)
        }
        self._told |= {job_id: done for job_id, (done, _) in fresh.items()}
        return fresh
