"""Every Redis key, and who keeps it alive.

Keys of one model carry its name as the hash tag `{M}`, so that a cluster keeps them in one slot and
a script may touch several. `lua/prelude.lua` derives the same names from the same prefix.

    cam:{M}:stream:LANE    entries {id, weight}; a lane is a rank (a priority, or redelivered), and
                           for jobs that name their device the two: interactive@cuda:1
    cam:{M}:lanes          set of those lanes with a device that have entries
    cam:{M}:job:ID         hash of the job; `document` is the front end's own, opaque here
    cam:{M}:in:ID          payload          cam:{M}:out:ID   result        cam:{M}:att:ID  hash
    cam:{M}:staged:ID:N    a value on its way into in, out or att
    cam:{M}:idem:WHO:KEY   idempotency key of a caller -> "ID\\nfingerprint"
    cam:{M}:deliveries     sorted set of ids of closed jobs by the ms at which news of them are due
    cam:{M}:pace           hash: how fast its jobs are done; see prelude.lua
    cam:{M}:recent         sorted set of ids of explanations, newest last, capped
    cam:{M}:dead           sorted set of ids of dead letters, newest last, capped
    cam:{M}:letter:ID      hash: what is known of a job that was given up
    cam:{M}:cache:ENTRY    a result that answers jobs of the same computation, which is its digest;
                           of jobs that name their device the two: 9f86…@cuda:1
    cam:{M}:cached         sorted set of ENTRYs by the ms of their last use
    cam:{M}:cached-until   sorted set of ENTRYs by the ms at which they end
    cam:{M}:cached-bytes   hash ENTRY -> its bytes; `all`: of all of them
    cam:{M}:totals         hash: what is counted, by its name and labels; {*}: of no model
    cam:{M}:added:N        mark of a call that has added to the totals; also {*}
    cam:queues             set of models that ever had a job, for the reaper
    cam:models             model -> resolved card
    cam:workers            worker -> record
    cam:commands           stream {id, kind, model} of what workers are told, read by each of them
    cam:command:ID         hash worker -> '' when it is done, else the failure
    cam:reaper             lock
    cam:rate:WHO           what a caller has used of its calls
    cam:link-secret        what signs links to results
    cam:done               channel: ids of closed jobs, and of commands that a worker answered
    cam:news               channel: ids of jobs that began, got on, or are asked to stop
    cam:deliveries         channel: that there may be deliveries that are due

Lives: open jobs live until their deadline plus `job_ttl_s`, closed ones for `job_ttl_s`, and as
long as a delivery takes that is not settled, always `job_ttl_s` beyond its next attempt; streams
and the sets of them at least as long as their youngest job; commands and their answers for
`job_ttl_s`; staged values `STAGED_TTL_MS`; what a caller has used until it has all of it again;
paces as long as a job; dead letters, and the sets of them, `dead_letter_ttl_s`; totals a month
after the last time that something was added, and marks of that for a minute; results in the cache
`result_cache_ttl_s` after they were computed. Only cards, workers and the secret stay.
"""

from __future__ import annotations

import re
from typing import Final

from camserve import vocabulary
from camserve.broker.devices import AUTO, EXECUTION

__all__ = [
    "CARDS",
    "COMMANDS",
    "COMMANDS_CAP",
    "DELIVERIES",
    "DONE",
    "GROUP",
    "LINKS",
    "MODEL_NAME",
    "NEWS",
    "NO_MODEL",
    "QUEUES",
    "RANKS",
    "REAPER",
    "REDELIVERED",
    "STAGED_TTL_MS",
    "WORKERS",
    "ahead",
    "answers",
    "attachments",
    "cached_result",
    "dead_letters",
    "deliveries",
    "job",
    "lane",
    "lanes",
    "letter",
    "pace",
    "payload",
    "prefix",
    "rank",
    "rate",
    "recent",
    "result",
    "staged",
    "stream",
    "totals",
]

CARDS: Final = "cam:models"
WORKERS: Final = "cam:workers"
QUEUES: Final = "cam:queues"
COMMANDS: Final = "cam:commands"
COMMANDS_CAP: Final = 1000
"""Far more than any worker is behind."""
REAPER: Final = "cam:reaper"
LINKS: Final = "cam:link-secret"
DONE: Final = "cam:done"
NEWS: Final = "cam:news"
DELIVERIES: Final = "cam:deliveries"

NO_MODEL: Final = "cam:{*}:"
"""What the keys of totals begin with that are of no model: no model has that name."""

GROUP: Final = "workers"
REDELIVERED: Final = "redelivered"
RANKS: Final = (REDELIVERED, "interactive", "bulk")
"""In the order in which workers look at their lanes."""
STAGED_TTL_MS: Final = 60_000

MODEL_NAME: Final = re.compile(vocabulary.MODEL_NAME)


def prefix(model: str) -> str:
    """What all keys of `model` begin with. Raises ValueError for a name that is none."""
    if not MODEL_NAME.fullmatch(model):
        raise ValueError(f"not a model name: {model!r}")
    return f"cam:{{{model}}}:"


def lane(rank: str, execution: str) -> str:
    """Where jobs of one rank and execution wait. Raises ValueError for a malformed execution."""
    if not EXECUTION.fullmatch(execution):
        raise ValueError(f"not an execution: {execution!r}")
    return rank if execution == AUTO else f"{rank}@{execution}"


def rank(lane: str) -> str:
    return lane.partition("@")[0]


def ahead(consumer: str) -> str:
    """The name by which a worker claims what it begins after what it computes now. Another one that
    is idle may have it; `lua/prelude.lua` knows it by its end."""
    return f"{consumer}:ahead"


def lanes(model: str) -> str:
    return f"{prefix(model)}lanes"


def stream(model: str, lane: str) -> str:
    return f"{prefix(model)}stream:{lane}"


def job(model: str, job_id: str) -> str:
    return f"{prefix(model)}job:{job_id}"


def payload(model: str, job_id: str) -> str:
    return f"{prefix(model)}in:{job_id}"


def result(model: str, job_id: str) -> str:
    return f"{prefix(model)}out:{job_id}"


def attachments(model: str, job_id: str) -> str:
    return f"{prefix(model)}att:{job_id}"


def cached_result(model: str, digest: str, execution: str) -> str:
    """Where a result is that answers other jobs."""
    device = "" if execution == AUTO else f"@{execution}"
    return f"{prefix(model)}cache:{digest}{device}"


def staged(model: str, job_id: str, nonce: str) -> str:
    return f"{prefix(model)}staged:{job_id}:{nonce}"


def recent(model: str) -> str:
    return f"{prefix(model)}recent"


def pace(model: str) -> str:
    return f"{prefix(model)}pace"


def totals(model: str | None) -> str:
    """None: what is counted of no model."""
    return f"{prefix(model) if model else NO_MODEL}totals"


def answers(command_id: str) -> str:
    return f"cam:command:{command_id}"


def rate(caller: str) -> str:
    return f"cam:rate:{caller}"


def deliveries(model: str) -> str:
    return f"{prefix(model)}deliveries"


def dead_letters(model: str) -> str:
    return f"{prefix(model)}dead"


def letter(model: str, job_id: str) -> str:
    return f"{prefix(model)}letter:{job_id}"
