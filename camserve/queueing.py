"""The queue's options as the settings give them: front ends and workers must agree on them."""

from __future__ import annotations

from camserve.broker import QueueOptions
from camserve.settings import Settings

__all__ = ["queue_options"]


def queue_options(settings: Settings) -> QueueOptions:
    return QueueOptions(
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        depth_cap=settings.queue_depth,
        bulk_depth_cap=settings.bulk_queue_depth,
        dead_letter_cap=settings.dead_letters,
        dead_letter_ttl_s=settings.dead_letter_ttl_s,
        job_ttl_s=settings.job_ttl_s,
        # the worker ends loads and explanations at their own limits; a job may wait for a load
        # first and be explained after it, and must keep its lease through both
        job_time_limit_s=settings.load_time_limit_s + settings.job_time_limit_s,
        result_cache_bytes=int(settings.result_cache_mb * 1_000_000),
        result_cache_ttl_s=settings.result_cache_ttl_s,
        worker_stale_s=settings.worker_stale_s,
    )
