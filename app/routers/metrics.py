"""How the service is doing, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.negotiation import accepts_coding
from app.state import State

__all__ = ["router"]

router = APIRouter(tags=["health"])

OPEN_METRICS = "application/openmetrics-text"


@router.get(
    "/metrics",
    summary="Metrics",
    response_description="Each metric with its help, in Prometheus' text format, or OpenMetrics.",
    response_class=PlainTextResponse,
    responses={200: {"content": {OPEN_METRICS: {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, state: State) -> Response:
    """Requests of this front end, and jobs, queues, models, workers and devices of the service.

    All front ends tell the same of the service, so scrape one for it, or take the maximum over
    them, never the sum. While Redis is away, `camserve_redis_up` is 0 and what it knows is left
    out. See docs/operating.md for what each metric is for.
    """
    compressed = accepts_coding(request.headers.getlist("accept-encoding"), "gzip")
    page, media_type = await state.exposition.page(
        request.headers.get("accept"), compressed=compressed
    )
    headers = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Encoding"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(page, 200, headers, media_type)
