"""An explanation for a protocol that knows no 202: handed in like any other, and waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Request

from app.guard import caller_name
from app.outcomes import answering, outcome
from app.results import Finished, finished
from app.state import AppState
from app.stopping import Stage
from app.submission import submit
from app.uploads import Arrival
from camserve.contracts.jobs import Caching
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import ShuttingDown, WaitExceeded
from camserve.tracing import stage

__all__ = ["explained"]

_OTHERWISE: Final = (
    "fetch it later at `explanation`, or send it to POST /v1/explanations with Prefer: "
    "respond-async"
)


@asynccontextmanager
async def explained(
    request: Request,
    state: AppState,
    arrival: Arrival[ExplanationRequest],
    *,
    form: str,
    idempotency_key: str | None,
    caching: Caching,
) -> AsyncIterator[Finished]:
    """The finished explanation, while its answer is made.

    form: media type of the answer. Raises what `submit` raises, what the explanation failed with,
    and WaitExceeded (or ShuttingDown) if it outlasts the wait of the server: it goes on, and can be
    fetched. A client that hangs up before takes it along, if it is for nobody else.
    """
    submission = await submit(
        state,
        arrival,
        form=form,
        idempotency_key=idempotency_key,
        owner=caller_name(request),
        request_id=request.state.request_id,
        caching=caching,
    )
    record = await outcome(state, request, submission)
    with answering(record), stage("present"):
        if not record.is_terminal:
            if state.stopping.has_reached(Stage.LATE):
                raise ShuttingDown
            raise WaitExceeded(state.settings.sync_wait_s, _OTHERWISE)
        yield await finished(state, record)
