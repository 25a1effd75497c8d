"""Server-sent events: an explanation whenever it changes.

Each event is the whole explanation, and its id a digest of it. So nothing need be kept to go on
after a lost connection, with any front end: what the client saw last is what it is compared with.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from fastapi import Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from app.answers import snapshot
from app.state import AppState
from app.stopping import Stage
from camserve.broker import JobRecord
from camserve.errors import ExplanationNotFound, QueueUnavailable

__all__ = ["event_stream"]

KEEP_ALIVE_S: Final = 15.0
RETRY_MS: Final = 2000
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def event_stream(
    state: AppState, record: JobRecord, seen: str | None, *, head: bool = False
) -> Response:
    """The stream of an explanation from `record` on, without the event whose id is `seen`.

    head: only its headers are asked for, and it would not end.
    204, which tells an EventSource to stop asking, if that was the last one.
    """
    if record.is_terminal and _id(await snapshot(state, record)) == seen:
        return Response(status_code=204, headers=_HEADERS)
    events = iter(()) if head else _events(state, record.id, seen)
    return StreamingResponse(events, 200, _HEADERS, EventSourceResponse.media_type)


async def _events(state: AppState, explanation_id: str, seen: str | None) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop()
    quiet_since_s = clock.time()
    async for record in state.queue.follow(explanation_id):
        if state.stopping.has_reached(Stage.DRAINING):
            return  # the client asks again, another front end or the next one
        event = await _news(state, record, seen) if record else None
        if event is not None:
            seen = _id(event)
            yield format_sse_event(data_str=event.decode(), id=seen, retry=RETRY_MS)
        elif clock.time() - quiet_since_s >= KEEP_ALIVE_S:
            yield KEEPALIVE_COMMENT
        else:
            continue
        quiet_since_s = clock.time()


async def _news(state: AppState, record: JobRecord, seen: str | None) -> bytes | None:
    try:
        made = await snapshot(state, record)
    except (ExplanationNotFound, QueueUnavailable):
        return None  # Redis is away, or lost it: the next look tells
    return None if _id(made) == seen else made


def _id(event: bytes) -> str:
    return hashlib.blake2b(event, digest_size=8).hexdigest()
