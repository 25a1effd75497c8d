"""How the OpenAPI document says which calls need a key, and what a refusal looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from app.access import explanation_of_link, makes_work, required_scope
from app.credentials import HEADER
from app.signatures import PARAMETER

__all__ = ["SCHEMES", "describe_security"]

SCHEMES: Final[dict[str, dict[str, str]]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, where the operator has set CAMSERVE_API_KEYS_FILE.",
    },
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": HEADER,
        "description": "The same key, for those who cannot set Authorization.",
    },
    "signature": {
        "type": "apiKey",
        "in": "query",
        "name": PARAMETER,
        "description": "Of a link to results or events, as an explanation gives it: opens these "
        "without a key, as `<img src>` and `EventSource` need it.",
    },
}


def describe_security(
    schema: dict[str, Any], problems: Callable[..., Mapping[int | str, dict[str, Any]]]
) -> None:
    """Adds the schemes, and to each operation which of them it takes and how it may refuse.

    A service without keys takes no notice of them: hence the empty alternative.
    problems: makes the `responses` of statuses.
    """
    schema["components"]["securitySchemes"] = SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            scope = required_scope(method.upper(), path)
            if scope is None:
                operation["security"] = []
                continue
            taken: list[dict[str, list[str]]] = [{"bearer": [scope]}, {"header": [scope]}]
            if explanation_of_link(method.upper(), path):
                taken.append({"signature": []})
            operation["security"] = [*taken, {}]
            statuses = (401, 403, 429) if makes_work(method.upper(), path) else (401, 403)
            refusals = {str(status): one for status, one in problems(*statuses).items()}
            operation["responses"] = dict(sorted((operation["responses"] | refusals).items()))
