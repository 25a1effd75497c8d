"""The worker's side of the queue: claim, begin, extend, commit."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

from redis.asyncio import Redis

from camserve.broker import failures, keys
from camserve.broker.beginning import begin
from camserve.broker.claim_source import ClaimSource
from camserve.broker.committing import Ending, commit
from camserve.broker.options import QueueOptions
from camserve.broker.records import Begun, Claim
from camserve.broker.scripts import Command, call, execute
from camserve.errors import QueueUnavailable

__all__ = ["WorkerQueue"]

Held = TypeVar("Held", bound=Claim | Begun)

NO_PAYLOADS: Final[Mapping[str, bytes]] = MappingProxyType({})


class WorkerQueue:
    """One per worker process; `consumer` is its name, unique among all live processes.

    device: what the worker computes on, as torch spells it; it claims jobs of `executions_of` it.

    All methods raise QueueUnavailable when the server is away; what was claimed before an outage
    may be tried again after it.
    """

    def __init__(
        self, redis: Redis, options: QueueOptions, consumer: str, device: str = "cpu"
    ) -> None:
        self._redis = redis
        self._options = options
        self._consumer = consumer
        self._source = ClaimSource(redis, options, consumer, device)

    async def claim(
        self, models: Sequence[str], limit: int, block_s: float, *, redelivered: bool = True
    ) -> list[Claim]:
        """Jobs of one of the models, all leased to this worker, of up to `limit` in weight, or a
        single heavier one; [] if none came.

        Only jobs that this worker's device fits. What is there is taken at once: interactive before
        bulk, else as they came, whether they name a device or not; the models take turns. Else it
        waits up to `block_s` seconds, or LONGEST_BLOCK_S if that is less, for the first job.
        A redelivered job goes before all others and comes alone; `redelivered=False` leaves such
        jobs to others while something runs here that they might take down. Call it only when there
        is room to run the jobs, and do not cancel it: what came at that moment would wait out its
        lease.

        What is in reserve goes before others of its priority, and a full batch of interactive jobs
        before a redelivered one that came after them; a worker that finds nothing is given what
        busy ones have claimed ahead.
        """
        if strays := self._source.strays(models):
            await self.release(strays)
        return await self._source.claim(models, limit, block_s, redelivered=redelivered)

    async def claim_ahead(self, models: Sequence[str], limit: int) -> list[Claim]:
        """What comes next as it looks now, while the device is busy: jobs of one model, of up to
        `limit` in weight with those that were claimed ahead before.

        They stay in reserve: `claim` gives them out, with what came meanwhile as far as it fits,
        unless something of a higher priority came, and `release` hands them back. Until they begin,
        any worker that is idle is given them. Redelivered jobs are never claimed ahead. Returns all
        that is in reserve of the model. Call it beside no other call that claims.
        """
        return await self._source.claim_ahead(models, limit)

    async def payloads(self, claims: Sequence[Claim]) -> list[bytes | None]:
        """Of jobs that have not begun; None where there is none any more."""
        return await execute(
            self._redis,
            *(("GET", keys.payload(claim.model, claim.job_id)) for claim in claims),
        )

    async def redelivered_waits(self, models: Sequence[str]) -> bool:
        """Whether a redelivered job of one of the models, that this device fits, has no worker."""
        return await self._source.redelivered_waits(models)

    async def begin(self, claim: Claim) -> Begun | None:
        """Starts an attempt; None when the job is not to run (closed, lost, expired, dead)."""
        begun = await self.begin_batch([claim])
        return begun[0] if begun else None

    async def begin_batch(
        self, claims: Sequence[Claim], known: Mapping[str, bytes] = NO_PAYLOADS
    ) -> list[Begun]:
        """Starts several in one round trip; those that are not to run are left out.

        known: payloads that need not be fetched again, by the ids of their jobs. Tried again after
        an outage it counts no other attempt."""
        batch, lost = await begin(self._redis, self._options, self._consumer, claims, known)
        for begun in lost:  # evicted by a server that is set up to evict
            # in an outage it waits for its lease; the rest of the batch must not wait with it
            with contextlib.suppress(QueueUnavailable):
                await self.fail(begun, failures.PAYLOAD_LOST.encode())
        return batch

    async def extend(self, held: Sequence[Held]) -> list[Held]:
        """Renews the leases of claims or begun jobs; returns those that are still this worker's.

        Call it every third of the lease. A job past `job_time_limit_s` is not renewed any more and
        not returned: its worker is to exit, since a hung computation cannot be stopped.
        """
        late_s = time.monotonic() - self._options.job_time_limit_s
        alive: list[Held] = [one for one in held if _begun_s(one) >= late_s]
        # A claim in reserve that was lost is found out by begin, which then drops it.
        renewals = [self._renewal(one) for one in alive]
        renewals += [self._renewal(claim) for claim in self._source.reserve]
        owned = await execute(self._redis, *renewals) if renewals else []
        return [one for one, own in zip(alive, owned, strict=False) if own]

    async def commit(self, endings: Sequence[Ending]) -> list[bool | Exception]:
        """Closes jobs in one round trip, each as if it were alone.

        Of each: True if this call closed it; as canceled, if its cancel was requested. False when
        another took it over, or it was closed meanwhile. Or the error that it met, QueueUnavailable
        after it was tried through an outage for `commit_patience_s`.
        """
        return await commit(self._redis, self._options, endings)

    async def finish(self, begun: Begun, result: bytes, computed: str = "") -> bool:
        """Commits one result, as `Ending.finished` has it; raises the error that it meets."""
        return await self._commit(Ending.finished(begun, result, computed))

    async def fail(self, begun: Begun, failure: bytes) -> bool:
        """The same of one failure."""
        return await self._commit(Ending.failed(begun, failure))

    async def drop(self, begun: Begun) -> bool:
        """The same of one that was not computed; False if it is still wanted."""
        return await self._commit(Ending.dropped(begun))

    async def report(self, progress: Sequence[tuple[Begun, int, int]]) -> None:
        """Tells how far jobs are: units done and units in all. Of a job that was lost: nothing."""
        await execute(
            self._redis,
            *(
                call("progress", [keys.prefix(job.model)], job.job_id, job.token, f"{done}/{total}")
                for job, done, total in progress
            ),
        )

    async def is_canceled(self, begun: Begun) -> bool:
        """Whether nobody wants the result any more: cancel requested, past its deadline, closed,
        lost, taken over."""
        (canceled,) = await self.are_canceled([begun])
        return canceled

    async def are_canceled(self, held: Sequence[Begun]) -> list[bool]:
        """The same of several, in one round trip."""
        if not held:
            return []
        fields = ("state", "owner", "cancel")
        (seconds, micros), *jobs = await execute(
            self._redis,
            ("TIME",),
            *(("HMGET", keys.job(begun.model, begun.job_id), *fields) for begun in held),
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return [
            now_ms >= begun.deadline_ms
            or state != b"running"
            or owner != begun.token.encode()
            or cancel is not None
            for begun, (state, owner, cancel) in zip(held, jobs, strict=True)
        ]

    async def reclaim(self, models: Sequence[str], limit: int = 1) -> list[Claim]:
        """Puts jobs whose lease ran out back into the queue, for all workers; claims some.

        Returns up to `limit` redelivered claims (0 when there is no room), each to run alone.
        Call it every half of the lease.
        """
        if not models:
            return []
        lapsed = ("idle", self._options.lease_ms, self._options.job_ttl_ms)
        await execute(
            self._redis, *(call("requeue", [keys.prefix(model)], *lapsed) for model in models)
        )
        return await self._source.redelivered(models, limit)

    async def release(self, claims: Iterable[Claim] = ()) -> None:
        """Hands claims that have not begun back to the queue, for another worker to take at once.

        Also those that this queue holds in reserve. They count no attempt.
        """
        back = [*claims, *self._source.empty_reserve()]
        if back:
            await execute(
                self._redis,
                *(
                    call(
                        "release",
                        [keys.prefix(claim.model)],
                        *(claim.job_id, claim.lane, claim.entry, self._options.job_ttl_ms),
                    )
                    for claim in back
                ),
            )

    @staticmethod
    async def release_consumer(
        redis: Redis, options: QueueOptions, consumer: str, models: Sequence[str]
    ) -> int:
        """Hands all that a dead worker held to others at once, and forgets the worker.

        What had begun is redelivered, to run alone. Returns how many jobs that were.
        """
        names = (consumer, keys.ahead(consumer))
        calls = [
            call("requeue", [keys.prefix(model)], "consumer", name, options.job_ttl_ms)
            for model in models
            for name in names
        ]
        return sum(await execute(redis, *calls))

    def _renewal(self, held: Claim | Begun) -> Command:
        if isinstance(held, Claim):
            claim, consumer, token = held, held.consumer, ""
        else:
            claim, consumer, token = held.claim, self._consumer, held.token
        return call(
            "extend",
            [keys.prefix(claim.model)],
            *(claim.job_id, claim.lane, claim.entry, consumer, token),
        )

    async def _commit(self, ending: Ending) -> bool:
        (closed,) = await self.commit([ending])
        if isinstance(closed, Exception):
            raise closed
        return closed


def _begun_s(held: Claim | Begun) -> float:
    return held.begun_s if isinstance(held, Begun) else math.inf
