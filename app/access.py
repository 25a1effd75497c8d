"""Which calls are open to everybody, and which scope all others need. What is not named here needs
the most, so that a new route is closed until somebody says what it is."""

from __future__ import annotations

import re
from typing import Final

from camserve.api_keys import Scope

__all__ = ["explanation_of_link", "makes_work", "required_scope"]

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_OPEN: Final = re.compile(
    r"/|/livez|/readyz|/v2(/health/(live|ready))?|/openapi\.json|/docs(/(?!\.)[\w.-]+){0,2}|/problems/[\w-]+"
)
"""What a load balancer, or somebody who was just refused, must be able to read."""

_OF_OPERATORS: Final = re.compile(r"/v1/dead-letters(/.*)?")
"""What tells of everybody's requests."""

_METRICS: Final = "/metrics"
"""What tells of load and of names, to a scraper which need not be able to do more."""

_EXPLAINING: Final = re.compile(
    r"POST /v1/explanations"
    r"|DELETE /v1/explanations/[^/]+"
    r"|POST /v2/repository/index"
    r"|POST /v[12]/models/[^/]+(/versions/[^/]+)?[/:](explain|predict|infer)"
)
"""What changes something, and is what the service is for."""


def required_scope(method: str, path: str) -> Scope | None:
    """The scope of a call; None if it is open. path: as the router sees it, or its template."""
    if method in _READING:
        if _OPEN.fullmatch(path):
            return None
        if path == _METRICS:
            return Scope.METRICS
        return Scope.ADMIN if _OF_OPERATORS.fullmatch(path) else Scope.EXPLAIN
    return Scope.EXPLAIN if _EXPLAINING.fullmatch(f"{method} {path}") else Scope.ADMIN


_LINKED: Final = re.compile(r"/v1/explanations/([^/]+)/(?:results/.+|events)")


def explanation_of_link(method: str, path: str) -> str | None:
    """The id of the explanation whose results or events a call reads: what a link may be signed
    for, since neither <img> nor EventSource can send a header."""
    match = _LINKED.fullmatch(path) if method in _READING else None
    return match[1] if match else None


def makes_work(method: str, path: str) -> bool:
    """Whether a call costs a device something; asking for what is there does not."""
    return method == "POST" and path != "/v2/repository/index"
