"""What every request may use: made once when the front end starts, never global."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from app.catalog import Catalog
from camserve.broker import JobQueue
from camserve.settings import Settings

__all__ = ["AppState", "State"]

T = TypeVar("T")


@dataclass(frozen=True)
class AppState:
    """The parts of a running front end."""

    settings: Settings
    queue: JobQueue
    catalog: Catalog
    picture_work: asyncio.Semaphore

    async def on_pictures(self, work: Callable[[], T]) -> T:
        """Decode or draw in a thread; only so many at once, since each may take half a gigabyte."""
        async with self.picture_work:
            return await asyncio.to_thread(work)


def _of(request: Request) -> AppState:
    return cast("AppState", request.state.parts)


State = Annotated[AppState, Depends(_of)]
