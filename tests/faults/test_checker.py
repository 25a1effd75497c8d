"""The checker sees each invariant violated: a sound state on a real server, then made unsound."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from camserve.broker import JobQueue, QueueOptions, WorkerQueue, connect, new_job_id
from camserve.broker.records import Priority
from tests.faults.checker import INVARIANTS, Checker, Report
from tests.faults.journal import Journal
from tests.faults.network import Deed
from tests.faults.record import Observation, Record, Submission
from tests.faults.snapshot import MODEL, Snapshot
from tests.faults.values import payload_file, result_file
from tests.faults.view import Limits

pytestmark = pytest.mark.anyio

LIMITS = Limits(lease_s=1, max_attempts=2, depth_cap=5, job_ttl_s=60, slack_s=1)
OPTIONS = QueueOptions(lease_s=1, max_attempts=2, depth_cap=5, job_ttl_s=60)
STREAM = f"cam:{{{MODEL}}}:stream:interactive"


Violate = Callable[["Stage"], object]


class Stage:
    """A sound state: 1 has succeeded, 2 was canceled while queued, 3 runs, 4 waits, 5 is poison
    that ended dead after it was computed together with 1."""

    def __init__(self, store: redis.Redis, folder: Path) -> None:
        self.store = store
        self.record = Record()
        self.journal = Journal(folder / "journal")
        self.checker = Checker(self.record, self.journal, LIMITS)
        self.ids: dict[int, str] = {}

    def computed(self, *numbers: int) -> None:
        line = {"pid": 1, "at_s": time.time(), "call": new_job_id("c"), "inputs": numbers}
        with self.journal.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def submitted(self, number: int, job_id: str, deed: Deed = Deed.NOTHING) -> Submission:
        self.ids[number] = job_id
        submission = Submission(number, deed, f"key-{number}", 10.0, is_sync=True)
        self.record.submissions[number] = submission
        call = self.record.begin_call("POST", "a", 10.0, number=number)
        call.ended_s, call.status, call.job_id, call.state = time.time(), 202, job_id, "queued"
        submission.calls.append(call)
        return submission

    def seen(self, number: int, state: str, *scores: float, later_s: float = 0.0) -> None:
        now_s = time.time() + later_s
        results = tuple((score, 0.0, 1.0) for score in scores)
        self.record.observations.append(
            Observation(self.ids[number], now_s, now_s, state, 1, results)
        )

    def look(self, *, at_rest: bool = False) -> Report:
        return self.checker.look(Snapshot.of(self.store), at_rest=at_rest)

    def key(self, kind: str, number: int) -> str:
        return f"cam:{{{MODEL}}}:{kind}:{self.ids[number]}"


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(redis.Redis.from_url(redis_url), tmp_path)
    async with connect(redis_url) as client, JobQueue(client, OPTIONS) as queue:
        worker = WorkerQueue(client, OPTIONS, "w")

        async def submit(number: int, deed: Deed = Deed.NOTHING) -> None:
            enqueued = await queue.enqueue(
                job_id=new_job_id(MODEL),
                priority=Priority.INTERACTIVE,
                time_to_deadline_ms=10_000,
                payload=payload_file(number),
                document=b"{}",
                idempotency_key=f"key-{number}",
                fingerprint="f",
            )
            stage.submitted(number, enqueued.job_id, deed)

        await submit(1)
        (claim,) = await worker.claim([MODEL], 1, 1.0)
        begun = await worker.begin(claim)
        assert begun
        assert await worker.finish(begun, result_file(1))
        await submit(2)
        assert await queue.cancel(stage.ids[2])
        stage.record.submissions[2].cancel_answer = "canceled", 0
        await submit(5, Deed.KILL)
        for _ in range(3):
            claims = await worker.claim([MODEL], 1, 1.0)
            await worker.begin_batch(claims)
            await WorkerQueue.release_consumer(client, OPTIONS, "w", [MODEL])
        await submit(3)
        assert await worker.begin_batch(await worker.claim([MODEL], 1, 1.0))
        await submit(4)
    stage.computed(1, 5)
    stage.computed(5)
    stage.computed(3)
    stage.seen(1, "succeeded", 1 / 64)
    assert str(stage.look()) == ""
    yield stage
    stage.store.close()


def change(number: int, kind: str = "job", **fields: str | int) -> Violate:
    """Fields of a hash as they must not be."""
    return lambda stage: stage.store.hset(stage.key(kind, number), mapping=fields)


def remove(kind: str, number: int) -> Violate:
    return lambda stage: stage.store.delete(stage.key(kind, number))


def called(number: int = 1, **fields: object) -> Violate:
    """Another request of a client, that ended like this."""

    def violate(stage: Stage) -> None:
        call = stage.record.begin_call("POST", "a", 1e6, number=number)
        call.ended_s = call.sent_s
        for name, value in fields.items():
            setattr(call, name, value)
        stage.record.submissions[number].calls.append(call)

    return violate


def second_job(stage: Stage) -> None:
    """The input of 1 again, under another id."""
    ids = {"old": stage.ids[1], "new": new_job_id(MODEL)}
    for kind in ("job", "out"):
        names = [f"cam:{{{MODEL}}}:{kind}:{ids[one]}" for one in ("old", "new")]
        stage.store.copy(*names)


def two_ids(stage: Stage) -> None:
    first = stage.record.submissions[1].calls[0]
    called(job_id=stage.ids[2], ended_s=first.ended_s)(stage)


def orphan(stage: Stage) -> None:
    stage.store.xadd(STREAM, {"id": new_job_id(MODEL)})


def flood(stage: Stage) -> None:
    for _ in range(LIMITS.depth_cap):
        orphan(stage)


def heard_late(stage: Stage) -> None:
    called(status=200, job_id=stage.ids[1], state="succeeded", ended_s=time.time() + 30)(stage)


VIOLATIONS: list[tuple[int, str, Violate]] = [
    (1, "is gone", remove("job", 2)),
    (1, "still queued", change(4, deadline_ms=1000)),
    (1, "still running", change(3, deadline_ms=1000)),
    (1, "ended", change(1, completed_ms=9_999_999_999_999)),
    (1, "completed at", change(4, completed_ms=1000)),
    (2, "seen succeeded, then failed", lambda s: s.seen(1, "failed", later_s=1)),
    (2, "seen succeeded, and is canceled", change(1, state="canceled")),
    (2, "was canceled and is expired", change(2, state="expired")),
    (2, "of another input", lambda s: s.seen(1, "succeeded", 7 / 64, later_s=1)),
    (2, "changed its results", lambda s: s.seen(1, "succeeded", 2 / 64, later_s=1)),
    (2, "was closed by", change(1, owner="another")),
    (2, "with a result: False", remove("out", 1)),
    (2, "or its result is", lambda s: s.store.append(s.key("out", 1), "x")),
    (3, "ran 2 times", lambda s: s.computed(1)),
    (3, "ran 3 times", lambda s: s.computed(5)),
    (3, "counts 3 attempts", change(3, attempts=3)),
    (4, "entries without a job", orphan),
    (4, "its entries are not", lambda s: s.store.delete(STREAM)),
    (4, "its entries are not", change(4, lane="bulk")),
    (4, "its entries are not", change(1, state="running")),
    (5, "7 deep", flood),
    (5, "6 deep", lambda s: s.record.see_depth(MODEL, 6)),
    (6, "before its caller heard", heard_late),
    (7, "canceled while queued, and ran", lambda s: s.computed(2)),
    (7, "expired while queued, and ran", change(3, state="expired", attempts=0)),
    (8, "computed together with poison 5, is failed", change(1, state="failed")),
    (8, "computed together with poison 5, is queued", lambda s: s.computed(5, 4)),
    (9, "2 entries", lambda _: None),
    (9, "has no TTL", lambda s: s.store.persist(s.key("out", 1))),
    (9, "has no TTL", lambda s: s.store.set("anything", "else")),
    (10, "never answered", called(ended_s=None)),
    (10, "were promised", called(sent_s=1.0, ended_s=None)),
    (10, "the connection broke", called(broken="ReadError")),
    (10, "answered with 418", called(status=418)),
    (10, "not in JSON", called(status=500, code="no JSON")),
    (10, "without Retry-After", called(status=503)),
    (11, "was answered with", two_ids),
    (11, "has two jobs", second_job),
    (11, "leads to", lambda s: s.store.set(f"cam:{{{MODEL}}}:idem::key-1", f"{s.ids[2]}\nf")),
]


@pytest.mark.parametrize(
    ("number", "words", "violate"),
    VIOLATIONS,
    ids=[f"{number}, {words}" for number, words, _ in VIOLATIONS],
)
async def test_a_violation_is_reported(
    stage: Stage, number: int, words: str, violate: Violate
) -> None:
    violate(stage)
    # what is open violates the rest by itself, and is looked at where that is what is asked
    report = stage.look(at_rest=number in (8, 9, 10))
    assert any(words in text for text in report.violations[number]), report
    assert f"invariant {number} ({INVARIANTS[number][0]})" in str(report)


def test_each_invariant_has_a_violation() -> None:
    assert {number for number, _, _ in VIOLATIONS} == set(INVARIANTS) == set(range(1, 12))


async def test_a_loss_of_data_excuses_what_it_explains_and_nothing_else(stage: Stage) -> None:
    with stage.record.fault("Redis is wiped", loses_data=True, is_outage=True):
        stage.store.flushall()
    report = stage.look(at_rest=True)
    assert str(report) == ""
    stage.computed(5)
    stage.computed(5)
    assert str(stage.look()) == ""  # it may have been run anew
    stage.computed(5)
    assert set(stage.look().violations) == {3}
    called(ended_s=None)(stage)
    assert set(stage.look(at_rest=True).violations) == {10}
    assert str(stage.look(at_rest=True)) == ""  # each is reported once


async def test_only_a_killed_front_end_excuses_a_broken_connection(stage: Stage) -> None:
    with stage.record.fault("front end killed", breaks="a"):
        called(broken="ReadError")(stage)
    assert str(stage.look()) == ""
    with stage.record.fault("front end killed", breaks="b"):
        called(broken="ReadError")(stage)
    assert set(stage.look().violations) == {10}
