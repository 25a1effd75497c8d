"""Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, one for each secret."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

__all__ = ["Signer"]

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes, by the specification


class Signer:
    """Signs with every secret, so that a receiver may hold the old or the new one."""

    def __init__(self, setting: str, secrets: Sequence[str]) -> None:
        """Raises ValueError, which names the setting and never the secret."""
        self._webhooks = [Webhook(_key(setting, secret)) for secret in secrets]

    def headers(self, message_id: str, body: bytes) -> dict[str, str]:
        """Of a message that is sent now. Receivers refuse one that is five minutes old."""
        now, text = datetime.now(UTC), body.decode()
        signatures = [one.sign(message_id, now, text) for one in self._webhooks]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _key(setting: str, secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not (secret.startswith(_PREFIX) and _SHORTEST <= len(key) <= _LONGEST):
        raise ValueError(
            f"{setting}: a secret is whsec_ and the base64 of {_SHORTEST} to {_LONGEST} random "
            'bytes; make one with `echo "whsec_$(openssl rand -base64 32)"`'
        )
    return key
