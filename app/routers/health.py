"""Is the process alive, and can the service explain something now?"""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from app.messages import json_response
from app.state import State
from camserve.contracts.explanations import Readiness
from camserve.errors import QueueUnavailable

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get(
    "/livez",
    summary="Alive",
    response_description="The process answers.",
    response_class=PlainTextResponse,
)
async def livez() -> Response:
    """200 as long as the process answers at all; touches nothing else."""
    return PlainTextResponse("ok\n")


@router.get(
    "/readyz",
    summary="Ready",
    response_description="Redis answers, and so many workers are ready.",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready, and why."}},
)
async def readyz(state: State) -> Response:
    """200 if Redis answers and a live worker has run its warm-up explanation."""
    try:
        workers = sum(worker.warm for worker in await state.catalog.workers(fresh=True))
    except QueueUnavailable as error:
        return json_response(Readiness(ready=False, redis=False, workers=0, reason=str(error)), 503)
    if workers == 0:
        reason = "no live worker has run its warm-up explanation yet"
        return json_response(Readiness(ready=False, redis=True, workers=0, reason=reason), 503)
    return json_response(Readiness(ready=True, redis=True, workers=workers))
