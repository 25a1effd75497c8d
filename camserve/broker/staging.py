"""Values on their way to a job. They never pass through a script's arguments, which copies them:
they are staged under a name of their own, and renamed by the script."""

from __future__ import annotations

from collections.abc import Mapping

from camserve.broker import keys
from camserve.broker.scripts import Command

__all__ = ["staged_attachments", "staged_value"]


def staged_value(name: str, value: bytes) -> Command:
    return ("SET", name, value, "PX", keys.STAGED_TTL_MS)


def staged_attachments(name: str, attachments: Mapping[str, bytes]) -> list[Command]:
    """As one: a connection that is cut in between would leave pictures without an end."""
    if not attachments:
        return []
    return [
        ("MULTI",),
        ("HSET", name, *(part for pair in attachments.items() for part in pair)),
        ("PEXPIRE", name, keys.STAGED_TTL_MS),
        ("EXEC",),
    ]
