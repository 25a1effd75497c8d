"""Conditional requests (RFC 9110, 13): what a client has already is not made or sent again."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response
from pydantic import BaseModel

from camserve import __version__
from camserve.settings import Settings

__all__ = ["etag_of", "etag_of_view", "is_current", "not_modified", "unchanging"]


def etag_of(*parts: bytes) -> str:
    """A strong entity tag of what `parts` determine."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return f'"{digest.hexdigest()}"'


def etag_of_view(
    settings: Settings, explanation_id: str, number: int, options: BaseModel, form: str
) -> str:
    """Of a map or picture, before it is made: a terminal result never changes, so that the view is
    determined by what was asked, by the limits that fit a default size, and by our own code."""
    limits = (settings.max_output_megapixels, settings.max_json_megapixels)
    asked = (__version__, explanation_id, str(number), options.model_dump_json(), form, str(limits))
    return etag_of(*(part.encode() for part in asked))


def is_current(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` names the tag: weak comparison, in a list, or `*`."""
    listed = ",".join(request.headers.getlist("if-none-match")).split(",")
    tags = {tag.strip().removeprefix("W/") for tag in listed}
    return etag in tags or "*" in tags


def not_modified(headers: dict[str, str]) -> Response:
    """304 with the headers that the full answer would have had."""
    return Response(status_code=304, headers=headers)


def unchanging(settings: Settings, etag: str) -> dict[str, str]:
    """Headers of a view, which a browser keeps for as long as the explanation can be fetched.

    Not shared caches: what was uploaded may be private.
    """
    keep = f"private, max-age={int(settings.job_ttl_s)}, immutable"
    return {"ETag": etag, "Cache-Control": keep, "Vary": "Accept"}
