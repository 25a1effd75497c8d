"""How the OpenAPI document says which calls need a key, and what a refusal looks like."""

from __future__ import annotations

from typing import Any, Final

from app.access import required_scope
from app.credentials import HEADER

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
}


def describe_security(schema: dict[str, Any], problems: dict[str, dict[str, Any]]) -> None:
    """Adds the schemes, and to each operation which of them it takes.

    problems: `responses` by status that a closed operation may answer as well. A service without
    keys takes no notice of them: hence the empty alternative.
    """
    schema["components"]["securitySchemes"] = SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            scope = required_scope(method.upper(), path)
            if scope is None:
                operation["security"] = []
                continue
            operation["security"] = [{"bearer": [scope]}, {"header": [scope]}, {}]
            operation["responses"] = dict(sorted((operation["responses"] | problems).items()))
