"""The jobs of late, newest first, page by page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.id_lists import each, known_models, newest_before
from camserve.broker.job_ids import model_of
from camserve.broker.records import JobRecord
from camserve.contracts.states import State

__all__ = ["Page", "RecentJobs"]

_PORTION: Final = 200
_MOST_LOOKED_AT: Final = 2000


class Page(NamedTuple):
    """cursor: where the next page begins; None after the last."""

    jobs: tuple[JobRecord, ...]
    cursor: str | None


class RecentJobs:
    """What was enqueued as `listed`, and is still kept. Raises QueueUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def page(
        self,
        limit: int,
        *,
        model: str | None = None,
        states: Collection[State] = frozenset(State),
        cursor: str | None = None,
    ) -> Page:
        """Up to `limit` jobs that came before the one whose id is `cursor`.

        A page may hold fewer, or none, and still have a next one: it looks at so many jobs, and
        not all may be in one of `states`.
        """
        models = [model] if model else await known_models(self._redis)
        lists = [keys.recent(one) for one in models]
        found: list[JobRecord] = []
        looked_at = 0
        while looked_at < _MOST_LOOKED_AT:
            ids = await newest_before(self._redis, lists, cursor, _PORTION)
            matching = await self._in(states, ids)
            taken = matching[: limit - len(found)]
            # a job may have gone on since its state was looked at
            found += [one for one in await self._read(taken) if one.state in states]
            if len(taken) < len(matching):
                return Page(tuple(found), taken[-1])
            if len(ids) < _PORTION:
                return Page(tuple(found), None)
            cursor = ids[-1]
            if len(found) >= limit:
                break
            looked_at += len(ids)
        return Page(tuple(found), cursor)

    async def _in(self, states: Collection[State], ids: Sequence[str]) -> list[str]:
        """Those of the jobs that are in one of the states; what has expired is struck off."""
        jobs = [(job_id, model_of(job_id)) for job_id in ids]
        values = await each(
            self._redis, (("HGET", keys.job(model, one), "state") for one, model in jobs)
        )
        found = [None if value is None else State(value.decode()) for value in values]
        gone = [job for job, state in zip(jobs, found, strict=True) if state is None]
        await each(self._redis, (("ZREM", keys.recent(model), one) for one, model in gone))
        return [job_id for job_id, state in zip(ids, found, strict=True) if state in states]

    async def _read(self, ids: Sequence[str]) -> list[JobRecord]:
        jobs = [(job_id, model_of(job_id)) for job_id in ids]
        hashes = await each(self._redis, (("HGETALL", keys.job(model, one)) for one, model in jobs))
        return [
            JobRecord.from_hash(job_id, model, values)
            for (job_id, model), values in zip(jobs, hashes, strict=True)
            if values
        ]
