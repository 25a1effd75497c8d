"""The front end's side of the queue: enqueue, cancel, reap, and all that `JobReader` asks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from camserve.broker import failures, keys
from camserve.broker.devices import AUTO
from camserve.broker.job_ids import model_of
from camserve.broker.job_reader import JobReader, model_or_none
from camserve.broker.records import Enqueued, JobRecord, Lookup, Priority
from camserve.broker.scripts import Command, call, execute
from camserve.broker.staging import staged_attachments, staged_value
from camserve.errors import IdempotencyConflict, QueueFull

__all__ = ["JobQueue", "full_line"]

_NO_ATTACHMENTS: Mapping[str, bytes] = MappingProxyType({})


class JobQueue(JobReader):
    """One per front-end process: what `JobReader` asks, and what changes jobs.

    All methods raise QueueUnavailable when the server is away.
    """

    async def enqueue(
        self,
        *,
        job_id: str,
        priority: Priority,
        time_to_deadline_ms: int,
        payload: bytes,
        document: bytes,
        attachments: Mapping[str, bytes] = _NO_ATTACHMENTS,
        idempotency_key: str | None = None,
        idempotency_owner: str = "",
        fingerprint: str | None = None,
        execution: str = AUTO,
        listed: bool = False,
        delivery_life_ms: int | None = None,
        measured: bool = True,
        weight: int = 1,
        digest: str | None = None,
        lookup: Lookup | None = None,
    ) -> Enqueued:
        """Accepts a job, once: the same id, or the same idempotency key, is the same job.

        job_id: from `new_job_id`; it names the model. Repeating a call is safe.
        time_to_deadline_ms: from now, by the server's clock; past it the job will not begin.
        idempotency_owner: whose key it is; the same key of another is another key. No colon in it.
        payload, document, attachments: of a duplicate they are dropped, and the first ones stay.
        execution: which workers may claim it, as EXECUTION spells it; if none ever does it expires.
        listed: whether `RecentJobs` shows it.
        delivery_life_ms: how long after its end `Deliveries` may hand it out; None: not at all.
        measured: whether the time that it takes tells how fast jobs of the model are done.
        weight: how much of a worker's batch it takes, of which `claim` has a limit.
        digest: of what it computes, if its result may be kept for later jobs. lookup: what came of
        the look for an earlier one; None: not to be counted.
        Raises ValueError (malformed id or execution), QueueFull (the line of its priority), and
        IdempotencyConflict when the key came with another fingerprint before.
        """
        model = model_of(job_id)
        prefix = keys.prefix(model)
        lane = keys.lane(priority.value, execution)
        nonce = secrets.token_hex(8)
        staged = keys.staged(model, job_id, nonce)
        pictures = f"{staged}:att"
        life_ms = max(time_to_deadline_ms, 0) + self._options.job_ttl_ms
        noted_ms = life_ms + self._options.lease_ms + (delivery_life_ms or 0)
        owned_key = f"{idempotency_owner}:{idempotency_key}" if idempotency_key else ""
        commands: list[Command] = [
            call("note", [keys.QUEUES], model, noted_ms),
            staged_value(staged, payload),
            *staged_attachments(pictures, attachments),
            call(
                "enqueue",
                [prefix, staged, pictures],
                *(job_id, priority.value, lane, time_to_deadline_ms, document),
                *(self._options.job_ttl_ms, self._options.cap_of(priority), nonce),
                *(owned_key, fingerprint or ""),
                self._options.recent_cap if listed else "",
                "" if delivery_life_ms is None else delivery_life_ms,
                1 if measured else "",
                *(weight, digest or "", lookup or ""),
            ),
        ]
        self._notifications.expect(job_id, keys.DONE)
        outcome = None
        try:
            *_, (outcome, *said) = await execute(self._redis, *commands)
        finally:
            if outcome != b"accepted":
                self._notifications.was_heard_of(job_id, keys.DONE)
        if outcome == b"full":
            raise full_line(model, priority, said)
        answered_by = said[0]
        if outcome == b"conflict":
            raise IdempotencyConflict(idempotency_key or "")
        return Enqueued(answered_by.decode(), duplicate=outcome == b"duplicate")

    async def cancel(self, job_id: str) -> JobRecord | None:
        """Cancels a queued job; asks a running one to stop; leaves a closed one. None if missing.

        A running job turns canceled when its worker next looks or commits.
        """
        model = model_or_none(job_id)
        if model is None:
            return None
        _, values = await execute(
            self._redis,
            call("cancel", [keys.prefix(model)], job_id, self._options.job_ttl_ms),
            ("HGETALL", keys.job(model, job_id)),
        )
        return JobRecord.from_hash(job_id, model, values) if values else None

    async def discard(self, job_id: str) -> bool:
        """Forgets a closed job that nobody will ask for again, with its result: before its time to
        live ends, and with the room it takes. False if it is open, or not there."""
        model = model_or_none(job_id)
        if model is None:
            return False
        (gone,) = await execute(self._redis, call("discard", [keys.prefix(model)], job_id))
        return bool(gone)

    async def reap(self) -> int:
        """Closes jobs past their deadline, also of models that no worker serves.

        Running ones get a lease more, for their worker to finish. Removes stale workers. Meant to
        be called by every front end about once a second; they exclude each other.
        Returns how many jobs it closed; 0 while another reaps.
        """
        token = secrets.token_hex(8)
        lock_ms = round(self._options.reaper_lock_s * 1000)
        mine, models = await execute(
            self._redis,
            ("SET", keys.REAPER, token, "NX", "PX", lock_ms),
            ("SMEMBERS", keys.QUEUES),
        )
        if not mine:
            return 0
        limits = (
            *(self._options.lease_ms, self._options.job_ttl_ms, failures.EXPIRED),
            self._options.result_cache_bytes,
        )
        stale_ms = round(self._options.worker_stale_s * 1000)
        *closed, _, _ = await execute(
            self._redis,
            *(call("reap", [keys.prefix(model.decode())], *limits) for model in sorted(models)),
            call("bury", [keys.WORKERS], stale_ms),
            call("unlock", [keys.REAPER], token),
        )
        return sum(closed)


def full_line(model: str, priority: Priority, said: Sequence[int]) -> QueueFull:
    """said: how many jobs are in the line, and the milliseconds in which they are done."""
    line, done_ms = said
    return QueueFull(model, priority.value, line, done_ms / 1000)
