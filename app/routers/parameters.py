"""Parameters that calls of several resources take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path
from pydantic import WithJsonSchema

__all__ = ["ExplanationId", "IdempotencyKey", "Name", "Prefer"]

ExplanationId = Annotated[str, Path(description="The `id` of the explanation.")]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A repeated key gives the first explanation again.",
    ),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255}),
]

Name = Annotated[str, Path(description="Name of the model.", examples=["shapes"])]

Prefer = Annotated[
    list[str] | None,
    Header(
        alias="Prefer",
        description="`wait=10`: answer 202 after that many seconds; `respond-async`: at once.",
    ),
    WithJsonSchema({"type": "string", "examples": ["wait=10", "respond-async"]}),
]
