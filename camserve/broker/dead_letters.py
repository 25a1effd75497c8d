"""Jobs that were given up, for the operator: listed, replayed, purged."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.id_lists import each, known_models, newest_before
from camserve.broker.job_ids import model_of
from camserve.broker.job_queue import full_line
from camserve.broker.options import QueueOptions
from camserve.broker.records import Lookup, Priority
from camserve.broker.scripts import call, execute
from camserve.contracts.states import State
from camserve.errors import DeadLetterNotFound, NotReplayable

__all__ = ["DeadLetter", "DeadLetters", "LetterPage", "LostAttempt"]

LossKind: TypeAlias = Literal["death", "lease"]


@dataclass(frozen=True)
class LostAttempt:
    """A run of the job that its worker did not end. Times are ms since the epoch."""

    worker: str
    started_ms: int
    ended_ms: int | None
    """When the job was taken from the worker; None if the server forgot the claim."""
    ended_by: LossKind | None
    """`death`: its supervisor saw it die; `lease`: it was silent for longer than its lease."""


@dataclass(frozen=True)
class DeadLetter:
    """What is known of a job that was given up. Times are ms since the epoch."""

    id: str
    model: str
    document: bytes
    """What the front end stored with the job."""
    priority: Priority
    execution: str
    created_ms: int
    deadline_ms: int
    died_ms: int
    attempts: tuple[LostAttempt, ...]
    replayable_until_ms: int | None
    """How long its payload is kept; None if it is gone."""
    replay_id: str | None
    """The job of its latest replay."""
    replay_state: State | None
    """How that job is; None if there was none, or it is not kept any more."""


class LetterPage(NamedTuple):
    """cursor: where the next page begins; None after the last."""

    letters: tuple[DeadLetter, ...]
    cursor: str | None


class DeadLetters:
    """The letters of all models. All methods raise QueueUnavailable when the server is away."""

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options

    async def page(
        self, limit: int, *, model: str | None = None, cursor: str | None = None
    ) -> LetterPage:
        """Up to `limit` letters of jobs that were accepted before the one whose id is `cursor`,
        newest first. A page may hold fewer, and still have a next one."""
        models = [model] if model else await known_models(self._redis)
        lists = [keys.dead_letters(one) for one in models]
        ids = await newest_before(self._redis, lists, cursor, limit + 1)
        shown = ids[:limit]
        letters = await self._read(shown)
        found = {letter.id for letter in letters}
        gone = [(keys.dead_letters(model_of(one)), one) for one in shown if one not in found]
        await each(self._redis, (("ZREM", name, one) for name, one in gone))  # they have expired
        return LetterPage(tuple(letters), shown[-1] if len(ids) > limit else None)

    async def get(self, job_id: str) -> DeadLetter:
        """Raises DeadLetterNotFound."""
        _model_of(job_id)
        for letter in await self._read([job_id]):
            return letter
        raise DeadLetterNotFound(job_id)

    async def replay(
        self,
        letter: DeadLetter,
        *,
        job_id: str,
        document: bytes,
        listed: bool,
        delivery_life_ms: int | None,
        measured: bool = True,
        weight: int = 1,
        digest: str | None = None,
        lookup: Lookup | None = None,
    ) -> str:
        """A new job from the payload of a dead one, with as much time; returns its id.

        That is `job_id`, or the id of an earlier replay that is still open. The letter stays, and
        names its replay. The arguments are those of `JobQueue.enqueue`; repeating a call is safe.
        Raises DeadLetterNotFound, NotReplayable if the payload is not kept any more, QueueFull.
        """
        prefix, options = keys.prefix(letter.model), self._options
        to_deadline_ms = letter.deadline_ms - letter.created_ms
        noted_ms = to_deadline_ms + options.job_ttl_ms + options.lease_ms + (delivery_life_ms or 0)
        _, (outcome, *said) = await execute(
            self._redis,
            call("note", [keys.QUEUES], letter.model, noted_ms),
            call(
                "replay",
                [prefix],
                *(letter.id, job_id, letter.priority.value),
                keys.lane(letter.priority.value, letter.execution),
                *(to_deadline_ms, document, options.job_ttl_ms, options.cap_of(letter.priority)),
                secrets.token_hex(8),
                options.recent_cap if listed else "",
                "" if delivery_life_ms is None else delivery_life_ms,
                1 if measured else "",
                *(weight, digest or "", lookup or ""),
            ),
        )
        match outcome:
            case b"missing":
                raise DeadLetterNotFound(letter.id)
            case b"gone":
                raise NotReplayable(letter.id)
            case b"full":
                raise full_line(letter.model, letter.priority, said)
        return str(said[0].decode())

    async def remove(self, job_id: str) -> int:
        """Forgets one letter, with what its job was given; 0 if there is none (any more). Raises
        DeadLetterNotFound for what cannot be the id of one."""
        return await self._purge([_model_of(job_id)], job_id)

    async def purge(self, model: str | None = None) -> int:
        """Forgets all letters of one model, or of all; returns how many."""
        return await self._purge([model] if model else await known_models(self._redis))

    async def _purge(self, models: Sequence[str], *ids: str) -> int:
        purges = (call("purge", [keys.prefix(model)], *ids) for model in models)
        return sum(await each(self._redis, purges))

    async def _read(self, ids: Sequence[str]) -> list[DeadLetter]:
        """Those that are there."""
        names = [(model_of(one), one) for one in ids]
        found = await each(
            self._redis,
            (
                command
                for model, one in names
                for command in (
                    ("HGETALL", keys.letter(model, one)),
                    ("EXISTS", keys.payload(model, one)),
                )
            ),
        )
        letters = [
            (one, model, values, bool(kept))
            for (model, one), values, kept in zip(names, found[::2], found[1::2], strict=True)
            if values
        ]
        states = await self._states([(model, values) for _, model, values, _ in letters])
        return [
            _letter(one, model, values, state, kept=kept)
            for (one, model, values, kept), state in zip(letters, states, strict=True)
        ]

    async def _states(
        self, letters: Sequence[tuple[str, Mapping[bytes, bytes]]]
    ) -> list[State | None]:
        """Of the latest replay of each letter."""
        jobs = [
            keys.job(model, values[b"replay"].decode()) if b"replay" in values else None
            for model, values in letters
        ]
        found = iter(await each(self._redis, (("HGET", job, "state") for job in jobs if job)))
        states = [next(found) if job else None for job in jobs]
        return [None if state is None else State(state.decode()) for state in states]


def _model_of(job_id: str) -> str:
    try:
        return model_of(job_id)
    except ValueError as error:
        raise DeadLetterNotFound(job_id) from error


def _letter(
    job_id: str, model: str, values: Mapping[bytes, bytes], state: State | None, *, kept: bool
) -> DeadLetter:
    return DeadLetter(
        id=job_id,
        model=model,
        document=values[b"document"],
        priority=Priority(values[b"priority"].decode()),
        execution=values[b"execution"].decode(),
        created_ms=int(values[b"created_ms"]),
        deadline_ms=int(values[b"deadline_ms"]),
        died_ms=int(values[b"died_ms"]),
        attempts=tuple(_attempt(line) for line in values[b"begun"].decode().splitlines()),
        replayable_until_ms=int(values[b"kept_until_ms"]) if kept else None,
        replay_id=values[b"replay"].decode() if b"replay" in values else None,
        replay_state=state,
    )


def _attempt(line: str) -> LostAttempt:
    """`worker started_ms`, and then `ended_ms how` once it was lost."""
    worker, started_ms, *end = line.split(" ")
    ended_ms, ended_by = (int(end[0]), cast("LossKind", end[1])) if end else (None, None)
    return LostAttempt(worker, int(started_ms), ended_ms, ended_by)
