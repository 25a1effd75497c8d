"""Which addresses answer errors as the clients of other model servers read them."""

from __future__ import annotations

import re
from typing import Any, Final

from app.negotiation import JSON

__all__ = ["MEDIA_TYPE", "in_their_form", "is_neighbours"]

# exactly: KServe's client reads the text of no other
MEDIA_TYPE: Final = JSON
_PATHS = re.compile(r"/v2(/.*)?|/v1/models/[^/]*:[^/]*", re.DOTALL)


def is_neighbours(path: str) -> bool:
    """Whether the address is one of KServe V1 or of the Open Inference Protocol."""
    return _PATHS.fullmatch(path) is not None


def in_their_form(problem: dict[str, Any]) -> dict[str, Any]:
    """A problem whose sentence is called `error`; all its other members stay."""
    return {"error": problem["detail"]} | {k: v for k, v in problem.items() if k != "detail"}
