"""CORS: which web pages may call from a browser, and what they may read."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.request_ids import HEADER as REQUEST_ID
from camserve.settings import Settings

__all__ = ["allow_origins"]

_ASKED: Final = (
    *("Authorization", "X-API-Key", "Prefer", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
    *("traceparent", "tracestate", "Inference-Header-Content-Length", "Cache-Control", REQUEST_ID),
)
_ANSWERED: Final = (
    *(
        "Location",
        "Link",
        "ETag",
        "Server-Timing",
        "Cache-Status",
        "Preference-Applied",
        "Retry-After",
        "RateLimit",
    ),
    *("RateLimit-Policy", "Inference-Header-Content-Length", "Content-Disposition", REQUEST_ID),
)
_MAX_AGE_S: Final = 3600


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Let the pages of `settings.cors_origins` call. Without any, browsers refuse all others.

    Never with cookies: a key goes into a header, which no foreign page can make a browser send.
    """
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=_ASKED,
            expose_headers=_ANSWERED,
            max_age=_MAX_AGE_S,
        )
