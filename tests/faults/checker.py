"""The eleven invariants of the queue, from outside: by Redis, the network's journal and clients.

Nothing here comes from camserve. Where data was lost with Redis, what was known before it is not
held against what is known after it; all else is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.client_invariants import a_waiter_wakes, every_call_ends, terminal_is_final
from tests.faults.journal import Journal
from tests.faults.network import Deed
from tests.faults.record import Record
from tests.faults.snapshot import JobKeys, Snapshot
from tests.faults.view import Limits, View

__all__ = ["INVARIANTS", "Checker", "Report"]

DEADLY = (Deed.KILL, Deed.SEGFAULT, Deed.HANG, Deed.HOLD_GIL)
HARMLESS = (Deed.NOTHING, Deed.SLEEP, Deed.WAIT)


@dataclass
class Report:
    """What was violated, by the invariant's number."""

    violations: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        return "\n".join(
            f"invariant {number} ({INVARIANTS[number][0]}): {len(texts)} violated\n"
            + "\n".join(f"    {text}" for text in texts[:10])
            for number, texts in sorted(self.violations.items())
        )


class Checker:
    """One per scene: it also compares each look with the one before."""

    def __init__(self, record: Record, journal: Journal, limits: Limits) -> None:
        self._record = record
        self._journal = journal
        self._limits = limits
        self._before: Snapshot | None = None
        self._reported: set[str] = set()

    def look(self, snapshot: Snapshot, *, at_rest: bool) -> Report:
        """What is violated and was not reported before.

        at_rest: nobody asks anything, and every fault is over.
        """
        view = View(self._record, self._journal, self._limits, snapshot, self._before, at_rest)
        report = Report()
        for number, (_, check) in INVARIANTS.items():
            if fresh := [text for text in check(view) if text not in self._reported]:
                report.violations[number] = fresh
                self._reported.update(fresh)
        self._before = snapshot
        return report


def ends_once(view: View) -> Iterator[str]:
    """1. Each accepted job reaches exactly one terminal state by deadline + lease + epsilon."""
    for submission, job_id in view.accepted():
        job = view.snapshot.jobs.get(job_id)
        since_s = submission.accepted_s or 0.0
        if job is None:
            if not view.lost_since(submission.calls[0].sent_s) and not view.has_passed(submission):
                yield f"job {job_id} (number {submission.number}) was accepted and is gone"
            continue
        if job.is_open == (job.completed_s is not None):
            yield f"job {job_id} is {job.state} and completed at {job.completed_s}"
        late_s = view.latest_end_s(job, since_s)
        if job.is_open and (view.at_rest or view.snapshot.now_s > late_s):
            over_s = view.snapshot.now_s - job.deadline_s
            yield f"job {job_id} is still {job.state}, {over_s:.1f} s after its deadline"
        if job.completed_s is not None and job.completed_s > late_s:
            yield f"job {job_id} ended {job.completed_s - job.deadline_s:.1f} s after its deadline"


def runs_are_bounded(view: View) -> Iterator[str]:
    """3. Executions <= max attempts; and each was counted."""
    runs = view.runs()
    for submission in view.record.submissions.values():
        jobs = view.jobs_of(submission)
        losses = view.record.losses(submission.calls[0].sent_s, view.snapshot.now_s)
        count = runs[submission.number]
        if count > view.limits.max_attempts * (1 + losses):
            yield f"number {submission.number} ran {count} times, {losses} losses of data"
        for job in jobs:
            if job.attempts > view.limits.max_attempts:
                yield f"job {job.job_id} counts {job.attempts} attempts"
        if len(jobs) == 1 and not losses and count > jobs[0].attempts:
            yield f"job {jobs[0].job_id} counts {jobs[0].attempts} attempts, and ran {count} times"


def entries_match_jobs(view: View) -> Iterator[str]:
    """4. An open job hash <=> a stream entry."""
    entries: dict[str, list[str]] = defaultdict(list)
    for name, lane in view.snapshot.lanes.items():
        for entry, job_id in lane.entries.items():
            entries[job_id].append(f"{name.partition(':')[2]} {entry}")
    for job in view.snapshot.jobs.values():
        expected = [f"{job.fields['lane']} {job.fields['entry']}"] if job.is_open else []
        if entries.pop(job.job_id, []) != expected:
            yield f"job {job.job_id} is {job.state} and its entries are not {expected}"
    for job_id, left in entries.items():
        yield f"entries without a job: {job_id} in {left}"


def depth_is_bounded(view: View) -> Iterator[str]:
    """5. Depth <= cap."""
    for model in {lane.model for lane in view.snapshot.lanes.values()}:
        view.record.see_depth(model, view.snapshot.depth(model))
    for model, depth in view.record.depths.items():
        if depth > view.limits.depth_cap:
            yield f"the queue of {model} was {depth} deep, cap {view.limits.depth_cap}"


def what_never_began_never_runs(view: View) -> Iterator[str]:
    """7. A job canceled or expired while queued never runs."""
    runs = view.runs()
    for submission in view.record.submissions.values():
        if view.lost_since(submission.calls[0].sent_s) or not runs[submission.number]:
            continue
        if submission.cancel_answer == ("canceled", 0):
            yield f"number {submission.number} was canceled while queued, and ran"
        for job in view.jobs_of(submission):
            if job.state in ("canceled", "expired") and job.attempts == 0:
                yield f"job {job.job_id} was {job.state} while queued, and ran"


def mates_of_poison_finish(view: View) -> Iterator[str]:
    """8. A poison job's batch-mates finish."""
    deadly = {one.number for one in view.record.submissions.values() if one.deed in DEADLY}
    for number, mate in set(view.journal.mates(deadly)):
        submission = view.record.submissions[mate]
        if submission.deed not in HARMLESS:
            continue
        for job in view.jobs_of(submission):
            excused = job.state in ("canceled", "expired")  # by its caller, or its own deadline
            if job.state != "succeeded" and not excused and (view.at_rest or not job.is_open):
                yield f"job {job.job_id}, computed together with poison {number}, is {job.state}"


def nothing_is_left_at_rest(view: View) -> Iterator[str]:
    """9. At rest: XLEN = pending = 0, and all keys pass away but those that are to stay."""
    if not view.at_rest:
        return
    for name, lane in view.snapshot.lanes.items():
        if lane.entries or lane.pending:
            yield f"lane {name} has {len(lane.entries)} entries, {lane.pending} of them pending"
    for name in view.snapshot.immortal():
        yield f"key {name} has no TTL"


def one_job_for_one_request(view: View) -> Iterator[str]:
    """11. Same id or idempotency key -> one job; one result for one input."""
    for submission in view.record.submissions.values():
        first, *others = submission.job_ids or [""]
        if others and not view.lost_since(submission.calls[0].sent_s):
            yield f"number {submission.number} was answered with {first} and {others}"
    yield from _twins(view)
    for (_, owned_key), job_id in view.snapshot.idempotency.items():
        key = owned_key.partition(":")[2]
        for submission in view.by_key(key):
            known = submission.job_ids
            if known and job_id not in known and not view.lost_since(submission.calls[0].sent_s):
                yield f"key {key} leads to {job_id}, and clients were told {known}"


def _twins(view: View) -> Iterator[str]:
    """Jobs of the same input between which no data was lost; that a later one was answered by the
    result of an earlier one is no second one."""
    by_number: dict[int, list[JobKeys]] = defaultdict(list)
    for job in view.snapshot.jobs.values():
        if job.number is not None and job.fields.get("lookup") != "hit":
            by_number[job.number].append(job)
    for number, jobs in by_number.items():
        for older, newer in pairwise(sorted(jobs, key=lambda job: job.created_s)):
            if not view.record.losses(older.created_s - view.limits.slack_s, newer.created_s):
                yield f"number {number} has two jobs: {older.job_id} and {newer.job_id}"


INVARIANTS: dict[int, tuple[str, Callable[[View], Iterator[str]]]] = {
    1: ("each accepted job ends once, and in time", ends_once),
    2: ("a terminal state and its result never change", terminal_is_final),
    3: ("executions <= max attempts", runs_are_bounded),
    4: ("an open job <=> a stream entry", entries_match_jobs),
    5: ("depth <= cap", depth_is_bounded),
    6: ("a waiter wakes though notifications are lost", a_waiter_wakes),
    7: ("what was canceled or expired while queued never runs", what_never_began_never_runs),
    8: ("a poison job's batch-mates finish", mates_of_poison_finish),
    9: ("nothing is left at rest", nothing_is_left_at_rest),
    10: ("each caller is answered", every_call_ends),
    11: ("one request, one job", one_job_for_one_request),
}
