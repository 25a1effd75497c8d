"""A client that has hung up: what is done for it alone ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.handing_in import Submission
from app.state import AppState
from camserve.errors import DeadlineExceeded, QueueUnavailable, ShuttingDown

__all__ = ["taken_along", "unless_abandoned"]

Result = TypeVar("Result")


async def unless_abandoned(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes. The body must have been read.

    Raises ClientDisconnect then, and what the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaves(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


@asynccontextmanager
async def taken_along(state: AppState, submission: Submission) -> AsyncIterator[None]:
    """While a job is waited for by somebody without whom nobody wants it: it is canceled if the
    wait is, or ends at the job's deadline or with this front end."""
    try:
        yield
    except (asyncio.CancelledError, DeadlineExceeded, ShuttingDown):
        with contextlib.suppress(QueueUnavailable):
            await state.queue.cancel(submission.job_id)
        raise


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
