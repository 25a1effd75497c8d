"""Jobs that the result of an earlier one answers: no worker computes the same thing twice."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import MappingProxyType

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.devices import AUTO
from camserve.broker.job_ids import model_of
from camserve.broker.looks import look, seen
from camserve.broker.options import QueueOptions
from camserve.broker.records import Enqueued, Priority
from camserve.broker.scripts import call, execute
from camserve.broker.staging import staged_attachments
from camserve.errors import IdempotencyConflict

__all__ = ["ResultCache"]

_NO_ATTACHMENTS: Mapping[str, bytes] = MappingProxyType({})


class ResultCache:
    """The front end's side. Workers fill it as they finish jobs, see `WorkerQueue.finish`."""

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options

    @property
    def is_on(self) -> bool:
        return self._options.result_cache_bytes > 0

    async def recall(
        self,
        *,
        job_id: str,
        digest: str,
        priority: Priority,
        time_to_deadline_ms: int,
        document: bytes,
        attachments: Mapping[str, bytes] = _NO_ATTACHMENTS,
        idempotency_key: str | None = None,
        idempotency_owner: str = "",
        fingerprint: str | None = None,
        execution: str = AUTO,
        listed: bool = False,
        delivery_life_ms: int | None = None,
        weight: int = 1,
    ) -> Enqueued | None:
        """Makes a job that has succeeded already, with the result of an earlier one, and looks at
        it; None where none is known, and nothing was done.

        It is like one that a worker computed, but was never in the queue: it needs no room there
        and no worker, nobody waited for it, and it says nothing of how fast jobs are done. digest:
        of what it computes. All else as `JobQueue.enqueue` has it; what is sent for a result that
        is not known is the question alone. Repeating a call is safe. Raises ValueError (malformed
        id or execution), IdempotencyConflict, QueueUnavailable.
        """
        model = model_of(job_id)
        lane = keys.lane(priority.value, execution)
        (known,) = await execute(
            self._redis, ("EXISTS", keys.cached_result(model, digest, execution))
        )
        if not known:
            return None
        nonce = secrets.token_hex(8)
        pictures = f"{keys.staged(model, job_id, nonce)}:att"
        life_ms = max(time_to_deadline_ms, 0) + self._options.job_ttl_ms
        *_, (outcome, *said), values, result = await execute(
            self._redis,
            call("note", [keys.QUEUES], model, life_ms + (delivery_life_ms or 0)),
            *staged_attachments(pictures, attachments),
            call(
                "recall",
                [keys.prefix(model), pictures],
                *(job_id, priority.value, lane, time_to_deadline_ms, document),
                *(self._options.job_ttl_ms, nonce),
                f"{idempotency_owner}:{idempotency_key}" if idempotency_key else "",
                fingerprint or "",
                self._options.recent_cap if listed else "",
                "" if delivery_life_ms is None else delivery_life_ms,
                *(weight, digest),
            ),
            *look(model, job_id),
        )
        match outcome:
            case b"miss":  # it went meanwhile
                return None
            case b"conflict":
                raise IdempotencyConflict(idempotency_key or "")
            case b"duplicate":
                return Enqueued(said[0].decode(), duplicate=True)
        return Enqueued(job_id, duplicate=False, record=seen(job_id, model, values, result))
