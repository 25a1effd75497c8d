"""The invariants that clients see by themselves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from tests.faults.network import CLASSES
from tests.faults.record import TERMINAL, Call, Observation
from tests.faults.snapshot import JobKeys
from tests.faults.view import View

__all__ = ["a_waiter_wakes", "every_call_ends", "terminal_is_final"]

ANSWERS = {200, 202, 409, 413, 429, 500, 503, 504}
"""409: canceled by its client; 413: too large for the device even alone; 500: the network raised,
or killed its worker too often."""
WITH_RETRY_AFTER = {429, 503}


def terminal_is_final(view: View) -> Iterator[str]:
    """2. A terminal state and its result never change; who does not own a job cannot close it."""
    seen: dict[str, list[Observation]] = defaultdict(list)
    for one in view.record.observations:
        seen[one.job_id].append(one)
    for job_id, observations in seen.items():
        yield from _changes(view, job_id, sorted(observations, key=lambda one: one.seen_s))
    for job in view.snapshot.jobs.values():
        closer = job.fields.get("closed_by")
        if job.state in ("succeeded", "failed") and closer != job.fields.get("owner"):
            yield f"job {job.job_id} was closed by {closer}, its owner is {job.fields.get('owner')}"
        if (job.state == "succeeded") != (job.result is not None):
            yield f"job {job.job_id} is {job.state}, with a result: {job.result is not None}"
        if job.fields.get("lookup") == "hit" and (job.state, job.attempts) != ("succeeded", 0):
            yield f"job {job.job_id} was known, and is {job.state} after {job.attempts} attempts"
        before = view.before.jobs.get(job.job_id) if view.before else None
        if before is not None and not before.is_open and view.before:
            lost = view.record.losses(view.before.now_s, view.snapshot.now_s)
            if _end(before) != _end(job) and not lost:
                yield f"job {job.job_id} was {before.state} and is {job.state} (or its result is)"
    for submission in view.record.submissions.values():
        yield from _foreign_results(seen, submission.number, submission.job_ids)


def _end(job: JobKeys) -> tuple[str, float | None, bytes | None]:
    return job.state, job.completed_s, job.result


def _changes(view: View, job_id: str, observations: list[Observation]) -> Iterator[str]:
    final: Observation | None = None
    for one in observations:
        # an answer that was on its way when the end came may arrive after it
        if final and one.sent_s > final.seen_s and not view.record.losses(final.sent_s, one.seen_s):
            if one.state != final.state:
                yield f"job {job_id} was seen {final.state}, then {one.state}"
            elif one.results and final.results and one.results != final.results:
                yield f"job {job_id} changed its results: {final.results}, then {one.results}"
        if one.is_terminal and (final is None or one.results or not final.results):
            final = one
    known = view.snapshot.jobs.get(job_id)
    if final is None or known is None or known.state == final.state:
        return
    if not view.record.losses(final.sent_s, view.snapshot.now_s):
        yield f"job {job_id} was seen {final.state}, and is {known.state}"


def _foreign_results(
    seen: dict[str, list[Observation]], number: int, job_ids: list[str]
) -> Iterator[str]:
    """A result is of the input that was sent, whatever batch or attempt it came from."""
    scores = [number / 64 * (c + 1) for c in range(CLASSES)]
    for job_id in job_ids:
        for one in seen[job_id]:
            for score, *_ in one.results:
                if not any(math.isclose(score, own, rel_tol=1e-5) for own in scores):
                    yield f"job {job_id} of number {number} has the score {score} of another input"


def a_waiter_wakes(view: View) -> Iterator[str]:
    """6. A waiter wakes within the fallback interval although every notification is lost."""
    for submission in view.record.submissions.values():
        for call in submission.calls:
            if not (submission.is_sync and call.ended_s and call.state in TERMINAL):
                continue
            job = view.snapshot.jobs.get(call.job_id or "")
            if job is None or job.completed_s is None:
                continue
            began_s = max(job.completed_s, call.sent_s)
            late_s = call.ended_s - began_s - view.limits.fallback_look_s - view.limits.slack_s
            if late_s > 0 and view.record.outage_until(began_s, call.ended_s) is None:
                waited_s = call.ended_s - began_s
                yield f"job {job.job_id} ended {waited_s:.1f} s before its caller heard"


def every_call_ends(view: View) -> Iterator[str]:
    """10. Each caller gets a result, 503 or 504 (or is told what is wrong), and never hangs."""
    for call in view.record.calls:
        yield from (f"{_name(call)} {what}" for what in _wrong(view, call))


def _name(call: Call) -> str:
    return f"{call.method} at {call.front}, number {call.number}, job {call.job_id}:"


def _wrong(view: View, call: Call) -> Iterator[str]:
    now_s = view.snapshot.now_s
    took_s = (call.ended_s or now_s) - call.sent_s
    if took_s > call.patience_s + view.limits.slack_s:
        yield f"took {took_s:.1f} s, where {call.patience_s:.1f} s were promised"
    if call.ended_s is None:
        if view.at_rest:
            yield "was never answered"
        return
    if call.broken is not None:
        killed = (one for one in view.record.faults if one.breaks == call.front)
        if not any(one.overlaps(call.sent_s, call.ended_s) for one in killed):
            yield f"the connection broke, and nobody broke it: {call.broken}"
        return
    if call.code == "no JSON":
        yield f"was answered with {call.status}, and not in JSON"
    if call.status not in ANSWERS | ({404} if view.record.losses(0.0, call.ended_s) else set()):
        yield f"was answered with {call.status} {call.code}: {call.detail}"
    if call.status in WITH_RETRY_AFTER and not call.retry_after:
        yield f"was answered with {call.status} {call.code} without Retry-After"
