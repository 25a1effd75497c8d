"""Bodies of the neighbours' protocols, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from app.body_documentation import BINARY, SCHEMAS
from app.negotiation import JSON

__all__ = ["json_body"]


def json_body(
    contract: type[BaseModel], example: dict[str, Any], *others: str, required: bool = True
) -> dict[str, Any]:
    """A `requestBody` in JSON, or behind JSON in one of the media types `others`."""
    schema = {"$ref": SCHEMAS.format(model=contract.__name__)}
    return {
        "required": required,
        "content": {
            JSON: {"schema": schema, "example": example},
            **{media_type: {"schema": BINARY} for media_type in others},
        },
    }
