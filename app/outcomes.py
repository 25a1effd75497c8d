"""How a call that waits for its job ends: with the result, or with what it failed with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from app.abandonment import taken_along, unless_abandoned
from app.handing_in import Submission, wait
from app.representations import explanation_href
from app.results import failure_of
from app.state import AppState
from camserve.broker import JobRecord
from camserve.errors import CamserveError, ExplanationNotFound, QueueUnavailable

__all__ = ["answering", "outcome"]


async def outcome(
    state: AppState, request: Request, submission: Submission, patience_s: float | None = None
) -> JobRecord:
    """The job once its client has waited long enough, which began before it was a job.

    A client that hangs up meanwhile takes its job along, if it was for nobody else. patience_s:
    what it asked for, within the server's limit, which is the default. Raises QueueUnavailable;
    ClientDisconnect for a client that has gone.
    """
    if submission.ended is not None:  # nobody can leave while it is waited for
        return submission.ended
    waiting = _waited(state, submission, patience_s)
    if patience_s != 0 and submission.is_for_one_client:
        waiting = _alone(state, submission, waiting)
    return await unless_abandoned(request, waiting)


async def _alone(
    state: AppState, submission: Submission, waiting: Coroutine[Any, Any, JobRecord]
) -> JobRecord:
    async with taken_along(state, submission):
        return await waiting


async def _waited(state: AppState, submission: Submission, patience_s: float | None) -> JobRecord:
    until_s = submission.arrived_s + (
        state.settings.sync_wait_s if patience_s is None else patience_s
    )
    if patience_s is None and submission.deadline_s <= until_s:
        # if the job expires first, stay for the verdict, which the reaper gives within a moment
        now_s = asyncio.get_running_loop().time()
        until_s = max(submission.deadline_s, now_s) + state.settings.lease_s
    return await wait(state, submission, until_s)


@contextmanager
def answering(record: JobRecord) -> Iterator[None]:
    """While the answer of a closed job is made. Raises what it failed with, if it has no result."""
    try:
        if failure := failure_of(record):
            raise failure
        yield
    except ExplanationNotFound as error:
        # it was there a moment ago: Redis lost its data between the result and the answer
        raise QueueUnavailable from error
    except CamserveError as error:
        # the explanation exists, and what was computed can still be fetched
        error.extensions["explanation"] = explanation_href(record.id)
        raise
