"""The job queue: streams on Redis or Valkey between front ends and workers.

The front end holds a `JobQueue`, a worker process a `WorkerQueue`; both see each other through the
`Registry`. How it works and what it promises: docs/decisions on the queue, and tests/broker.
"""

from camserve.broker.committing import Ending
from camserve.broker.connection import LONGEST_BLOCK_S, connect
from camserve.broker.dead_letters import DeadLetter, DeadLetters, LetterPage, LostAttempt
from camserve.broker.deliveries import Deliveries, Delivery
from camserve.broker.devices import AUTO, EXECUTION, executions_of, fits
from camserve.broker.job_ids import model_of, new_job_id
from camserve.broker.job_queue import JobQueue
from camserve.broker.link_secret import LinkSecret
from camserve.broker.model_commands import (
    CommandKind,
    CommandReader,
    CommandSender,
    ModelCommand,
    new_command_id,
)
from camserve.broker.options import QueueOptions
from camserve.broker.rate_limiter import Quota, RateLimiter
from camserve.broker.recent_jobs import Page, RecentJobs
from camserve.broker.records import (
    Begun,
    Claim,
    DeliveryRecord,
    Enqueued,
    JobRecord,
    Lookup,
    Priority,
)
from camserve.broker.registry import Registry, WorkerRecord
from camserve.broker.result_cache import ResultCache
from camserve.broker.totals import Census, ModelCensus, RankCensus, Totals
from camserve.broker.worker_queue import WorkerQueue
from camserve.contracts.states import State

__all__ = [
    "AUTO",
    "EXECUTION",
    "LONGEST_BLOCK_S",
    "Begun",
    "Census",
    "Claim",
    "CommandKind",
    "CommandReader",
    "CommandSender",
    "DeadLetter",
    "DeadLetters",
    "Deliveries",
    "Delivery",
    "DeliveryRecord",
    "Ending",
    "Enqueued",
    "JobQueue",
    "JobRecord",
    "LetterPage",
    "LinkSecret",
    "Lookup",
    "LostAttempt",
    "ModelCensus",
    "ModelCommand",
    "Page",
    "Priority",
    "QueueOptions",
    "Quota",
    "RankCensus",
    "RateLimiter",
    "RecentJobs",
    "Registry",
    "ResultCache",
    "State",
    "Totals",
    "WorkerQueue",
    "WorkerRecord",
    "connect",
    "executions_of",
    "fits",
    "model_of",
    "new_command_id",
    "new_job_id",
]
