"""Conditional requests (RFC 9110, 13): what a client has already is not made or sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fastapi import Request, Response
from pydantic import BaseModel

from camserve import __version__
from camserve.settings import Settings

__all__ = [
    "etag_of",
    "etag_of_view",
    "is_current",
    "is_named",
    "not_modified",
    "unchanging",
    "unless_current",
]


def etag_of(*parts: bytes) -> str:
    """A strong entity tag of what `parts` determine."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return f'"{digest.hexdigest()}"'


def etag_of_view(
    settings: Settings, explanation_id: str, number: int | None, options: BaseModel, form: str
) -> str:
    """Of a map or picture, before it is made: a terminal result never changes, so that the view is
    determined by what was asked, by the limits that fit a default size, and by our own code.

    number: of the result; None for all of them, as the request asked for them.
    """
    limits = (settings.max_output_megapixels, settings.max_json_megapixels)
    asked = (__version__, explanation_id, str(number), options.model_dump_json(), form, str(limits))
    return etag_of(*(part.encode() for part in asked))


def is_named(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` lists the tag, by weak comparison. Only what was sent once has a tag
    that is known, so that this may be asked before it is made again."""
    return etag in _listed(request)


def is_current(request: Request, etag: str) -> bool:
    """The same, or `*`, which holds of all that is there: to be asked once that is sure."""
    return not _listed(request).isdisjoint({etag, "*"})


def _listed(request: Request) -> set[str]:
    listed = ",".join(request.headers.getlist("if-none-match")).split(",")
    return {tag.strip().removeprefix("W/") for tag in listed}


def not_modified(headers: Mapping[str, str]) -> Response:
    """304 with the headers that the full answer would have had."""
    return Response(status_code=304, headers=headers)


def unless_current(
    request: Request | None,
    body: bytes,
    headers: Mapping[str, str],
    status: int = 200,
    *,
    form: str,
) -> Response:
    """What may be another thing next time: a client may keep it, and must ask, which is answered
    304 if it has just this.

    request: None if it is no GET. form: media type of `body`.
    """
    etag = etag_of(body)
    every = {"ETag": etag, "Cache-Control": "no-cache", **headers}
    if request is not None and is_current(request, etag):
        return not_modified(every)
    return Response(body, status, every, media_type=form)


def unchanging(settings: Settings, etag: str) -> dict[str, str]:
    """Headers of a view, which a browser keeps for as long as the explanation can be fetched.

    Not shared caches: what was uploaded may be private.
    """
    keep = f"private, max-age={int(settings.job_ttl_s)}, immutable"
    return {"ETag": etag, "Cache-Control": keep, "Vary": "Accept"}
