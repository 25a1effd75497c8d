"""All that the checker goes by, and the questions that several invariants ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.faults.journal import Journal
from tests.faults.record import Record, Submission
from tests.faults.snapshot import JobKeys, Snapshot

__all__ = ["Limits", "View"]


@dataclass(frozen=True)
class Limits:
    """What the service was started with. depth_cap: of both lines of a model together. slack_s: for
    a machine that is busy; it bounds a hang."""

    lease_s: float
    max_attempts: int
    depth_cap: int
    job_ttl_s: float
    fallback_look_s: float = 1.0
    slack_s: float = 15.0


@dataclass
class View:
    record: Record
    journal: Journal
    limits: Limits
    snapshot: Snapshot
    before: Snapshot | None
    at_rest: bool

    def accepted(self) -> Iterator[tuple[Submission, str]]:
        """Each submission that got an id, with the last one."""
        for submission in self.record.submissions.values():
            if submission.job_ids:
                yield submission, submission.job_ids[-1]

    def jobs_of(self, submission: Submission) -> list[JobKeys]:
        jobs = self.snapshot.jobs
        return [jobs[job_id] for job_id in submission.job_ids if job_id in jobs]

    def lost_since(self, at_s: float) -> bool:
        """Whether data may have been lost since then."""
        return self.record.losses(at_s, self.snapshot.now_s) > 0

    def has_passed(self, submission: Submission) -> bool:
        """Whether the job may have come to the end of its life."""
        return self.snapshot.now_s - submission.calls[0].sent_s > self.limits.job_ttl_s

    def latest_end_s(self, job: JobKeys, accepted_s: float) -> float:
        """By when the job must have ended: the time that Redis was away does not count."""
        grace_s = self.limits.lease_s + self.limits.slack_s
        back_s = self.record.outage_until(accepted_s, job.deadline_s + grace_s)
        return max(job.deadline_s, back_s or 0.0) + grace_s

    def runs(self) -> Counter[int]:
        """How often each number was computed."""
        return self._runs

    @cached_property
    def _runs(self) -> Counter[int]:
        return Counter(
            number
            for one in self.journal.executions()
            if not one.is_tried_again
            for number in set(one.inputs)
        )

    def by_key(self, key: str) -> list[Submission]:
        return self._by_key.get(key, [])

    @cached_property
    def _by_key(self) -> dict[str, list[Submission]]:
        found: dict[str, list[Submission]] = {}
        for submission in self.record.submissions.values():
            if submission.idempotency_key:
                found.setdefault(submission.idempotency_key, []).append(submission)
        return found
