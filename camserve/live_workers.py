"""The workers that live now, as they tell of themselves."""

from __future__ import annotations

from camserve.broker import Registry, WorkerRecord
from camserve.contracts.cards import WorkerStatus

__all__ = ["live_workers"]


async def live_workers(registry: Registry) -> tuple[WorkerStatus, ...]:
    """By name, with their ages as of now by the server's clock: hosts need no common one.

    Workers of another version of camserve, as there are during an upgrade, are left out. Raises
    QueueUnavailable.
    """
    found = (_status(record) for record in (await registry.worker_records()).values())
    return tuple(status for status in found if status is not None)


def _status(record: WorkerRecord) -> WorkerStatus | None:
    status = WorkerStatus.of_this_version(record.status)
    if status is None or status.proof_age_s is None:
        return status
    return status.model_copy(update={"proof_age_s": status.proof_age_s + record.silent_s})
