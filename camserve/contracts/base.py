"""What all messages have in common: frozen, and no unknown field passes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Message"]


class Message(BaseModel):
    """A value that crosses a wire. Immutable; an unknown field is an error that names it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # an answer has all its members, and a client generated from its schema may rely on that
        json_schema_serialization_defaults_required=True,
    )
