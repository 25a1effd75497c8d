"""`Cache-Control` of a request (RFC 9111, 5.2.1): what caches may do for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from app.negotiation import list_members
from camserve.contracts.jobs import Caching

__all__ = ["parse_cache_control"]

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE: Final = re.compile(rf'({_NAME})(?:=(?:{_NAME}|"(?:[^"\\]|\\.)*"))?', re.DOTALL)


def parse_cache_control(headers: Sequence[str]) -> Caching:
    """All `Cache-Control` headers as one list.

    `no-cache`: computed afresh, and kept for others. `no-store`: neither answered by a cache nor
    kept in one. All else is as good as not there, what is malformed included: the ages that the
    other directives are about mean nothing where the same question has the same answer for ever.
    """
    members = (_DIRECTIVE.fullmatch(member.strip()) for member in list_members(headers))
    given = {found[1].lower() for found in members if found}
    if "no-store" in given:
        return "bypass"
    return "refresh" if "no-cache" in given else "use"
