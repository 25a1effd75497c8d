"""Messages as JSON answers."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from app.conditional import unless_current
from app.negotiation import JSON

__all__ = ["current_response", "json_bytes", "json_response"]


def json_response(
    message: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that is a message, as `json_bytes` writes it."""
    return Response(json_bytes(message), status, headers, media_type=JSON)


def current_response(
    request: Request, message: BaseModel, headers: Mapping[str, str] | None = None
) -> Response:
    """A message that may be another one next time: a client may keep it, and must ask, which is
    answered 304 if it has this one already."""
    return unless_current(request, json_bytes(message), headers or {}, form=JSON)


def json_bytes(message: BaseModel) -> bytes:
    """A message as JSON; arrays in it are written as they are, number by number in orjson."""
    return orjson.dumps(message.model_dump(), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
