"""A receiver on loopback that answers as a test says and verifies what it gets."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

from tests.app.front import Front, running_front
from tests.app.outbound.web_server import WebServer, answer

__all__ = ["SECRET", "Inbox", "Received", "hooked_front"]

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Received:
    """A verified message."""

    id: str
    event: dict[str, Any]


@dataclass
class Inbox:
    """At `/hook` of a web server. answers: statuses of the first requests; then 204. hold: while it
    is not set, nothing is answered."""

    server: WebServer
    answers: Iterable[int] = ()
    hold: asyncio.Event | None = None
    received: asyncio.Queue[Received] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self._statuses = iter(self.answers)
        self.server.pages["/hook"] = self._answer

    @property
    def url(self) -> str:
        return self.server.url("/hook")

    async def next(self) -> Received:
        async with asyncio.timeout(PATIENCE_S):
            return await self.received.get()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        asked = self.server.asked[-1]
        event = Webhook(SECRET).verify(asked.body, asked.headers)
        self.received.put_nowait(Received(asked.headers["webhook-id"], event))
        if self.hold is not None:
            await self.hold.wait()
        writer.write(answer(b"", next(self._statuses, 204)))
        await writer.drain()


@asynccontextmanager
async def hooked_front(redis_url: str, inbox: Inbox, **settings: Any) -> AsyncIterator[Front]:
    """A front end that may send webhooks to the inbox, and tries again soon."""
    chosen = {
        "webhook_hosts": (inbox.server.entry,),
        "webhook_secret": (SECRET,),
        "webhook_retry_s": 0.01,
        **settings,
    }
    async with running_front(redis_url, **chosen) as front:
        await front.publish()
        yield front
