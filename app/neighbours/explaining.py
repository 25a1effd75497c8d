"""An explanation for a protocol that knows no 202: handed in like any other, and waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from app.outcomes import answering, outcome
from app.results import Finished, finished
from app.state import AppState
from app.stopping import Stage
from app.submission import submit
from app.uploads import Arrival
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
    state: AppState,
    arrival: Arrival[ExplanationRequest],
    *,
    form: str,
    idempotency_key: str | None,
    owner: str,
    request_id: str | None,
) -> AsyncIterator[Finished]:
    """The finished explanation, while its answer is made.

    form: media type of the answer. Raises what `submit` raises, what the explanation failed with,
    and WaitExceeded (or ShuttingDown) if it outlasts the wait of the server: it goes on, and can be
    fetched.
    """
    submission = await submit(
        state,
        arrival,
        form=form,
        idempotency_key=idempotency_key,
        owner=owner,
        request_id=request_id,
    )
    record = await outcome(state, submission)
    with answering(record), stage("present"):
        if not record.is_terminal:
            if state.stopping.has_reached(Stage.LATE):
                raise ShuttingDown
            raise WaitExceeded(state.settings.sync_wait_s, _OTHERWISE)
        yield await finished(state, record)
