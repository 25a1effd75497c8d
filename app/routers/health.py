"""Is the process alive, and can the service explain something now?"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.messages import json_response
from app.readiness import state_of
from app.state import State
from app.stopping import Stage
from camserve.contracts.cards import WorkerStatus
from camserve.contracts.readiness import Readiness, WorkerReadiness
from camserve.errors import QueueUnavailable

__all__ = ["router"]

router = APIRouter(tags=["health"])

_NO_STORE = {"Cache-Control": "no-store"}


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
    response_description="Redis answers, and so many workers can explain.",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready, and why."}},
)
async def readyz(request: Request, state: State) -> Response:
    """200 if Redis answers and a live worker has run its warm-up explanation lately.

    503 also from the moment on at which this front end is told to stop: it still answers, and who
    sends it more is to send it elsewhere.
    A worker that died or hangs counts no more once its heartbeats have ended for
    `CAMSERVE_WORKER_STALE_S`; one whose device fails restarts, and counts again when it explains.
    Where there are API keys, only who sends one is told about each worker.
    """
    lasts_s = state.settings.proof_lasts_s
    try:
        workers = await state.catalog.workers(fresh=True)
    except QueueUnavailable as error:
        away = Readiness(ready=False, redis=False, workers=0, reason=str(error))
        return json_response(away, 503, _NO_STORE)
    proven = sum(worker.is_proven(lasts_s) for worker in workers)
    is_told_more = state.settings.api_keys_file is None or request.state.caller is not None
    reason = None if proven else _reason(workers, lasts_s)
    if state.stopping.has_reached(Stage.LEAVING):
        reason = "this front end is being stopped"
    found = Readiness(
        ready=reason is None,
        redis=True,
        workers=proven,
        reason=reason,
        found=tuple(_readiness(one, lasts_s) for one in workers) if is_told_more else (),
    )
    return json_response(found, 200 if found.ready else 503, _NO_STORE)


def _reason(workers: Sequence[WorkerStatus], lasts_s: float) -> str:
    if not workers:
        return "there is no live worker, so none that has run its warm-up explanation"
    states = {state_of(worker, lasts_s) for worker in workers}
    if "unproven" in states:
        return f"no live worker has run its warm-up explanation in the last {lasts_s:g} s"
    if "starting" in states:
        return "no live worker has run its warm-up explanation yet"
    return "each worker has died, and is about to be started again"


def _readiness(worker: WorkerStatus, lasts_s: float) -> WorkerReadiness:
    age_s = worker.proof_age_s
    return WorkerReadiness(
        worker=worker.worker,
        host=worker.host,
        device=worker.device,
        state=state_of(worker, lasts_s),
        proof_age_s=None if age_s is None else round(age_s, 3),
    )
