"""What leads on, in the OpenAPI document: events of a stream, and links from answers to calls."""

from __future__ import annotations

from typing import Any, Final

from app.body_documentation import SCHEMAS
from app.negotiation import JSON

__all__ = ["EVENT", "LINKS_OF_EXPLANATION", "LINKS_OF_MODELS"]

EVENT: Final[dict[str, Any]] = {
    "title": "ExplanationEvent",
    "type": "object",
    "required": ["id", "data"],
    "properties": {
        "id": {"type": "string", "description": "To be sent as `Last-Event-ID`, to go on."},
        "data": {
            "type": "string",
            "description": "The explanation, as JSON.",
            "contentMediaType": JSON,
            "contentSchema": {"$ref": SCHEMAS.format(model="Explanation")},
        },
        "retry": {"type": "integer", "description": "Milliseconds to wait before going on."},
    },
}
"""Each of the server-sent events of an explanation."""


def _links(source: str, parameter: str, *operations: str, **fixed: Any) -> dict[str, Any]:
    return {
        operation: {"operationId": operation, "parameters": {parameter: source, **fixed}}
        for operation in operations
    }


_OF_ID = ("read_explanation", "follow_explanation", "cancel_explanation")

LINKS_OF_EXPLANATION: Final = {
    **_links("$response.body#/id", "explanation_id", *_OF_ID),
    **_links("$response.body#/id", "explanation_id", "read_map", "read_overlay", number=0),
}
"""Where an explanation that was made or read leads."""

LINKS_OF_MODELS: Final = _links(
    "$response.body#/models/0/name", "model", "read_model", "list_layers", "predict"
)
