"""The webhook as the OpenAPI document describes it, under `webhooks`."""

from __future__ import annotations

from typing import Any, Final

from app.body_documentation import SCHEMAS
from app.negotiation import JSON
from camserve.contracts.webhooks import WebhookEvent

__all__ = ["describe_webhooks"]

_SIGNATURE: Final = (
    "`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; several, separated by spaces, "
    "while the secret is changed."
)
_HEADERS: Final = {
    "webhook-id": ("Id of the message, the same in each attempt.", "string"),
    "webhook-timestamp": ("When it was sent, in seconds since 1970; refuse an old one.", "integer"),
    "webhook-signature": (_SIGNATURE, "string"),
}
_DESCRIPTION: Final = """\
Sent to the `webhook` of a request when its explanation has succeeded, failed, expired, was canceled
or given up, in the form of [Standard Webhooks](https://www.standardwebhooks.com).

At least once: the same `webhook-id` is the same message. Redirects are not followed, and the body
of the answer is not read."""


def describe_webhooks(schema: dict[str, Any]) -> None:
    """Adds them, with the schema of what they send."""
    name = WebhookEvent.__name__
    event = WebhookEvent.model_json_schema(ref_template=SCHEMAS, mode="serialization")
    event.pop("$defs", None)  # the answers of the API, which are there already
    schema["components"]["schemas"][name] = event
    schema["webhooks"] = {
        "explanation": {
            "post": {
                "summary": "An explanation has ended",
                "description": _DESCRIPTION,
                "operationId": "explanation_ended",
                "parameters": [
                    {
                        "name": header,
                        "in": "header",
                        "required": True,
                        "description": description,
                        "schema": {"type": kind},
                    }
                    for header, (description, kind) in _HEADERS.items()
                ],
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": {"$ref": SCHEMAS.format(model=name)}}},
                },
                "responses": {
                    "2XX": {"description": "It is delivered."},
                    "410": {"description": "Nothing is wanted any more: it is given up."},
                    "default": {
                        "description": "It is tried again, not before `Retry-After` of a 429 or "
                        "503."
                    },
                },
            }
        }
    }
