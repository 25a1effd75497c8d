"""What every request may use: made once when the front end starts, never global."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from app.catalog import Catalog
from app.exposition import Exposition
from app.input_cache import InputCache
from app.outbound.fetching import Fetcher
from app.signatures import Signer
from app.stopping import Stopping
from app.webhooks.configuration import WebhookConfiguration
from camserve.broker import (
    CommandSender,
    DeadLetters,
    JobQueue,
    LinkSecret,
    RateLimiter,
    RecentJobs,
    ResultCache,
)
from camserve.settings import Settings

__all__ = ["AppState", "State"]

T = TypeVar("T")


@dataclass(frozen=True)
class AppState:
    """The parts of a running front end."""

    settings: Settings
    queue: JobQueue
    result_cache: ResultCache
    recent: RecentJobs
    dead_letters: DeadLetters
    catalog: Catalog
    commands: CommandSender
    picture_threads: ThreadPoolExecutor
    input_cache: InputCache
    fetcher: Fetcher
    webhooks: WebhookConfiguration
    stopping: Stopping
    rate_limiter: RateLimiter
    exposition: Exposition
    link_secret: LinkSecret | None
    """None where links need no signature, because calls need no key."""

    async def signer(self) -> Signer | None:
        """What signs links to results, if they need a signature. Raises QueueUnavailable."""
        return Signer(await self.link_secret.get()) if self.link_secret else None

    async def on_pictures(self, work: Callable[[], T]) -> T:
        """Decode or draw in one of few threads, since each may take a gigabyte.

        A caller that is cancelled leaves the line; work that has begun keeps its thread.
        """
        # with the context: what is logged there is of this request
        work_of_request = partial(copy_context().run, work)
        return await asyncio.get_running_loop().run_in_executor(
            self.picture_threads, work_of_request
        )


async def _of(request: Request) -> AppState:
    return cast("AppState", request.state.parts)


State = Annotated[AppState, Depends(_of)]
