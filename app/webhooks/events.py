"""The event that tells of the end of an explanation."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from app.answers import snapshot
from app.state import AppState
from camserve.broker import JobRecord

__all__ = ["event_body", "message_id"]


def message_id(job_id: str) -> str:
    """The same for every attempt. Without the model's name, which may hold a dot."""
    return f"msg_{job_id.partition('-')[0]}"


async def event_body(state: AppState, record: JobRecord) -> bytes:
    """A `WebhookEvent` as JSON. Raises ExplanationNotFound if the result is no longer kept."""
    ended = datetime.fromtimestamp((record.completed_ms or 0) / 1000, UTC)
    return orjson.dumps(
        {
            "type": f"explanation.{record.state}",
            "timestamp": ended,
            "data": orjson.Fragment(await snapshot(state, record)),
        },
        option=orjson.OPT_UTC_Z,
    )
