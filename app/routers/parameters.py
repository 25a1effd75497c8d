"""Parameters that calls of several resources take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request
from pydantic import WithJsonSchema

from app.cache_control import parse_cache_control
from camserve.contracts.jobs import Caching
from camserve.errors import InvalidRequest

__all__ = ["CacheControl", "ExplanationId", "IdempotencyKey", "Name", "Prefer"]

ExplanationId = Annotated[str, Path(description="The `id` of the explanation.")]


async def _single(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="A request with the key of an earlier one gives its explanation again.",
        ),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255}),
    ] = None,
) -> str | None:
    """Raises InvalidRequest for several: by any of them the request would be another one."""
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise InvalidRequest("Idempotency-Key is given several times", field="Idempotency-Key")
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(_single)]


async def _caching(
    cache_control: Annotated[
        list[str] | None,
        Header(
            alias="Cache-Control",
            description="`no-cache`: computed afresh, and kept for others; `no-store`: not kept, "
            "either. What has no meaning here is ignored.",
        ),
        WithJsonSchema({"type": "string", "examples": ["no-cache", "no-store"]}),
    ] = None,
) -> Caching:
    return parse_cache_control(cache_control or [])


CacheControl = Annotated[Caching, Depends(_caching)]

Name = Annotated[str, Path(description="Name of the model.", examples=["shapes"])]

Prefer = Annotated[
    list[str] | None,
    Header(
        alias="Prefer",
        description="`wait=10`: answer 202 after that many seconds; `respond-async`: at once. Of "
        "several waits the first counts; what has no meaning is ignored.",
    ),
    WithJsonSchema({"type": "string", "examples": ["wait=10", "respond-async"]}),
]
