"""Claims become attempts: of a whole batch in one round trip."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from camserve.broker import failures, keys
from camserve.broker.options import QueueOptions
from camserve.broker.records import Begun, Claim
from camserve.broker.scripts import call, execute

__all__ = ["begin"]


async def begin(
    redis: Redis,
    options: QueueOptions,
    consumer: str,
    claims: Sequence[Claim],
    known: Mapping[str, bytes],
) -> tuple[list[Begun], list[Begun]]:
    """Those that have begun, and those that have although their payload is gone.

    known: payloads that need not be fetched, by the ids of their jobs. Raises QueueUnavailable.
    """
    of_models: dict[str, list[Claim]] = {}
    for claim in claims:
        of_models.setdefault(claim.model, []).append(claim)
    begins = [
        call(
            "begin",
            [keys.prefix(model)],
            *(consumer, options.max_attempts, options.job_ttl_ms),
            *(failures.EXPIRED, failures.DEAD),
            *(options.dead_letter_cap, options.dead_letter_ttl_ms),
            *(
                part
                for claim in of_model
                for part in (claim.job_id, claim.lane, claim.entry, claim.token)
            ),
        )
        for model, of_model in of_models.items()
    ]
    unknown = [claim for claim in claims if claim.job_id not in known]
    gets = [("GET", keys.payload(claim.model, claim.job_id)) for claim in unknown]
    # a letter that one of these may leave is found though nobody serves its model any more
    suspects = {claim.model for claim in claims if claim.redelivered}
    notes = [call("note", [keys.QUEUES], one, options.dead_letter_ttl_ms) for one in suspects]
    replies = (await execute(redis, *notes, *begins, *gets))[len(notes) :]
    fetched = zip((claim.job_id for claim in unknown), replies[len(begins) :], strict=True)
    payloads = {**known, **dict(fetched)}
    batch: list[Begun] = []
    lost: list[Begun] = []
    for of_model, all_started in zip(of_models.values(), replies, strict=False):
        for claim, started in zip(of_model, all_started, strict=True):
            if started is None:
                continue
            payload = payloads[claim.job_id]
            attempts, deadline_ms, document, queued_ms = started
            begun = Begun(
                job_id=claim.job_id,
                token=claim.token,
                payload=payload or b"",
                document=document,
                attempts=int(attempts),
                deadline_ms=int(deadline_ms),
                redelivered=int(attempts) > 1,
                claim=claim,
                begun_s=time.monotonic(),
                queued_ms=int(queued_ms),
            )
            (lost if payload is None else batch).append(begun)
    return batch, lost
