"""Whether a worker can explain, as front ends tell it."""

from __future__ import annotations

from camserve.contracts.cards import WorkerStatus
from camserve.contracts.readiness import WorkerReadinessState

__all__ = ["state_of"]


def state_of(worker: WorkerStatus, proof_lasts_s: float) -> WorkerReadinessState:
    """Of a live worker. proof_lasts_s: how old its proof may be."""
    if worker.restarting:
        return "restarting"
    if not worker.warm:
        return "starting"
    return "ready" if worker.is_proven(proof_lasts_s) else "unproven"
