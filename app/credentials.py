"""The API key of a request, in either of two headers."""

from __future__ import annotations

from collections.abc import Iterable

from camserve.errors import ApiKeyMissing, ApiKeyUnknown

__all__ = ["HEADER", "presented_key"]

HEADER = "X-API-Key"

_SEND_ONE = "send it as a header, Authorization: Bearer KEY or X-API-Key: KEY"


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What the client presents as its key, as bytes: they need not be text.

    headers: as ASGI has them, names in lower case. `Authorization` of another scheme is a proxy's,
    and no hindrance beside `X-API-Key`. Raises ApiKeyMissing, or ApiKeyUnknown for several keys:
    which one is meant? Neither repeats what was sent.
    """
    found, foreign = set(), False
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(credentials.strip())
            else:
                foreign = True
    found.discard(b"")
    if len(found) > 1:
        raise ApiKeyUnknown(f"the request carries several API keys: {_SEND_ONE}")
    if not found:
        why = "Authorization is not of the form 'Bearer KEY'" if foreign else "there is no API key"
        raise ApiKeyMissing(f"{why}: {_SEND_ONE}")
    return found.pop()
