"""Whether the service can explain something now."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from camserve.contracts.base import Message

__all__ = ["Readiness", "WorkerReadiness", "WorkerReadinessState"]

WorkerReadinessState: TypeAlias = Literal["ready", "starting", "unproven", "restarting"]


class WorkerReadiness(Message):
    """A live worker, and whether it can explain."""

    worker: str = Field(description="Name of the worker process.")
    host: str = Field(description="Its machine.")
    device: str = Field(description="As `cpu`, `cuda:0`.")
    state: WorkerReadinessState = Field(
        description="`ready`; `starting`: it loads its models; `unproven`: its warm-up explanation "
        "is too long ago; `restarting`: it died, and another one takes its place."
    )
    proof_age_s: float | None = Field(
        description="Seconds since its warm-up explanation last came out right; null: never."
    )


class Readiness(Message):
    """Whether the service can explain something now, and if not, why."""

    ready: bool
    redis: bool = Field(description="Whether Redis answers.")
    workers: int = Field(description="Live workers that ran their warm-up explanation lately.")
    reason: str | None = Field(None, description="Why it is not ready.")
    found: tuple[WorkerReadiness, ...] = Field(
        (), description="All live workers; none to a caller without a key, where there are keys."
    )
