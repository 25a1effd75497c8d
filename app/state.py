"""What every request may use: made once when the front end starts, never global."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from app.catalog import Catalog
from camserve.broker import JobQueue
from camserve.settings import Settings

__all__ = ["AppState", "State"]


@dataclass(frozen=True)
class AppState:
    """The parts of a running front end."""

    settings: Settings
    queue: JobQueue
    catalog: Catalog
    decoding: asyncio.Semaphore
    """Held while a picture is decoded, which may take half a gigabyte."""


def _of(request: Request) -> AppState:
    return cast("AppState", request.state.parts)


State = Annotated[AppState, Depends(_of)]
