"""Attempts end: those of a whole batch in one round trip, each as if it were alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from redis.asyncio import Redis

from camserve.broker import failures, keys
from camserve.broker.options import QueueOptions
from camserve.broker.records import Begun
from camserve.broker.scripts import Command, call, execute_each
from camserve.broker.staging import staged_value
from camserve.contracts.states import State
from camserve.errors import QueueUnavailable

__all__ = ["Ending", "commit"]

_RETRY_S = 0.1


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, for `WorkerQueue.commit`."""

    begun: Begun
    state: State
    result: bytes | None = field(default=None, repr=False)
    computed: str = ""
    failure: bytes = b""

    @classmethod
    def finished(cls, begun: Begun, result: bytes, computed: str = "") -> Self:
        """computed: digest of what was computed; where it is that of the job, its result is kept
        for later jobs. Whether there is room for that does not matter here."""
        return cls(begun, State.SUCCEEDED, result=result, computed=computed)

    @classmethod
    def failed(cls, begun: Begun, failure: bytes) -> Self:
        """failure: small JSON with `code` and `detail`."""
        return cls(begun, State.FAILED, failure=failure)

    @classmethod
    def dropped(cls, begun: Begun) -> Self:
        """It was not computed; only right if nobody wants its result any more: its cancel was
        requested, or its deadline has passed."""
        return cls(begun, State.EXPIRED, failure=failures.EXPIRED.encode())


async def commit(
    redis: Redis, options: QueueOptions, endings: Sequence[Ending]
) -> list[bool | Exception]:
    """As `WorkerQueue.commit`."""
    found: dict[int, bool | Exception] = {}
    open_ones = dict(enumerate(endings))
    end_s = time.monotonic() + options.commit_patience_s
    while True:
        closings = [_closing(options, one) for one in open_ones.values()]
        try:
            replies = await execute_each(redis, *closings)
        except Exception as error:  # noqa: BLE001 - each is told
            replies = [error] * len(closings)
        is_late = time.monotonic() >= end_s
        for number, reply in zip(list(open_ones), replies, strict=True):
            if is_late or not isinstance(reply, QueueUnavailable):
                found[number] = reply if isinstance(reply, Exception) else bool(reply)
                del open_ones[number]
        if not open_ones:
            return [found[number] for number in range(len(endings))]
        await asyncio.sleep(_RETRY_S)


def _closing(options: QueueOptions, ending: Ending) -> list[Command]:
    begun = ending.begun
    staged = keys.staged(begun.model, begun.job_id, begun.token)
    finish = call(
        "finish",
        [keys.prefix(begun.model), staged],
        *(begun.job_id, begun.token, ending.state.value, options.job_ttl_ms, ending.failure),
        *(ending.computed, options.result_cache_bytes, options.result_cache_ttl_ms),
    )
    return [finish] if ending.result is None else [staged_value(staged, ending.result), finish]
