"""What can be set about the queue. One object, made once and passed to both sides."""

from __future__ import annotations

from dataclasses import dataclass, fields

from camserve.broker.records import Priority

__all__ = ["QueueOptions"]


@dataclass(frozen=True)
class QueueOptions:
    """Limits of the queue. Front ends and workers of one service must use the same ones.

    Raises ValueError for a number that is not positive; only `result_cache_bytes` may be 0.
    """

    lease_s: float = 30.0
    """A claim whose lease was not renewed for this long is given to another worker."""
    max_attempts: int = 3
    """How often a job may begin; then it is dead."""
    depth_cap: int = 256
    """Open interactive jobs per model; more are refused with QueueFull."""
    bulk_depth_cap: int = 1024
    """Open bulk jobs per model; neither line fills that of the other."""
    job_ttl_s: float = 3600.0
    """How long a closed job, its result and its attachments can be read."""
    job_time_limit_s: float = 120.0
    """A job that runs longer has its lease renewed no more."""
    recent_cap: int = 10_000
    """Explanations listed per model; older ones can still be fetched by their id."""
    dead_letter_cap: int = 1000
    """Dead letters kept per model; the oldest go first."""
    dead_letter_ttl_s: float = 7 * 86_400.0
    """How long a dead letter is kept; its job can be replayed for `job_ttl_s`."""
    fallback_look_s: float = 1.0
    """A waiter looks this often by itself, in case its notification was lost."""
    result_cache_bytes: int = 0
    """Results kept per model to answer later jobs of the same computation; 0: none."""
    result_cache_ttl_s: float = 86_400.0
    """How long after it was computed a result may answer others."""
    worker_stale_s: float = 15.0
    """A worker without a heartbeat for this long counts as gone."""
    commit_patience_s: float = 60.0
    """How long a worker that holds a result tries to reach a server that is away."""
    reaper_lock_s: float = 10.0
    """A reaper that dies while it reaps keeps others away for this long."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "result_cache_bytes" and value == 0:
                continue
            if value <= 0:
                raise ValueError(f"{field.name} must be positive")

    def cap_of(self, priority: Priority) -> int:
        return self.bulk_depth_cap if priority is Priority.BULK else self.depth_cap

    @property
    def lease_ms(self) -> int:
        return round(self.lease_s * 1000)

    @property
    def dead_letter_ttl_ms(self) -> int:
        return round(self.dead_letter_ttl_s * 1000)

    @property
    def result_cache_ttl_ms(self) -> int:
        return round(self.result_cache_ttl_s * 1000)

    @property
    def job_ttl_ms(self) -> int:
        return round(self.job_ttl_s * 1000)
