"""What all messages have in common: frozen, and no unknown field passes."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

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

    @classmethod
    def of_this_version(cls, document: bytes) -> Self | None:
        """What a process of this version of camserve wrote; None for that of another one, as there
        are during an upgrade."""
        try:
            return cls.model_validate_json(document)
        except ValidationError:
            return None
