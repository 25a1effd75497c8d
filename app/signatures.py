"""Signed links: whoever has one may read the results and events of that explanation, and no more.

An `<img src>` or `EventSource` cannot send a header, and a key in an address would end up in
logs and histories.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import unquote_plus

__all__ = ["PARAMETER", "Signer", "without_signature"]

PARAMETER: Final = "signature"
"""Of the query, beside all the others."""
_BYTES: Final = 16


class Signer:
    """HMAC-SHA256 over the explanation's id, cut to 128 bits, in base64url: 22 characters.

    It lives as long as the explanation: the secret is lost with the server's data, no sooner.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def signature(self, explanation_id: str) -> str:
        message = f"results of {explanation_id}".encode(errors="replace")
        digest = hmac.digest(self._secret, message, hashlib.sha256)[:_BYTES]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def has_signed(self, explanation_id: str, signature: str) -> bool:
        """In constant time."""
        expected = self.signature(explanation_id).encode()
        return hmac.compare_digest(expected, signature.encode(errors="replace"))


def without_signature(query: bytes) -> tuple[bytes, list[str]]:
    """A query string without signatures, byte for byte, and those that it had."""
    kept, found = [], []
    for part in query.split(b"&"):
        name, _, value = part.decode("latin-1").partition("=")
        if unquote_plus(name) == PARAMETER:
            found.append(unquote_plus(value))
        else:
            kept.append(part)
    return b"&".join(kept), found
