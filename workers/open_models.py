"""Of which models a worker takes jobs."""

from __future__ import annotations

from camserve.broker import WorkerQueue
from workers.presence import Presence
from workers.repository import Repository
from workers.residency import Residency
from workers.side_tasks import SideTasks

__all__ = ["OpenModels"]


class OpenModels:
    """One per worker. beside: loads, and the jobs that wait for them."""

    def __init__(
        self,
        queue: WorkerQueue,
        repository: Repository,
        residency: Residency,
        presence: Presence,
        beside: SideTasks,
    ) -> None:
        self._queue = queue
        self._repository = repository
        self._residency = residency
        self._presence = presence
        self._beside = beside

    @property
    def in_charge(self) -> tuple[str, ...]:
        """Those whose jobs this worker computes, or refuses because nobody can."""
        names = (*self._repository.names, *sorted(self._presence.unserved))
        return tuple(n for n in dict.fromkeys(names) if n not in self._presence.withheld)

    async def now(self) -> list[str]:
        """Those whose jobs are claimed now: all but those that load.

        While a redelivered job waits for loads to end, no other one begins: else loads that follow
        each other would keep it waiting for ever. Raises QueueUnavailable.
        """
        names = self.in_charge
        models = [name for name in names if name not in self._residency.loading]
        if self._beside and await self._queue.redelivered_waits(names):
            return [name for name in models if name in self._residency.resident]
        return models
