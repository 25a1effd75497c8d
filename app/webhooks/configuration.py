"""What the operator says of webhooks, checked when the front end starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from app.outbound.allow_list import AllowList
from app.outbound.urls import MalformedUrl, parse_url
from app.webhooks.schedule import Schedule
from app.webhooks.signing import Signer
from camserve.errors import InvalidRequest, UrlNotAllowed
from camserve.settings import Settings

__all__ = ["FIELD", "WebhookConfiguration"]

FIELD: Final = "webhook"


@dataclass(frozen=True)
class WebhookConfiguration:
    """Where webhooks may go, how they are signed and when they are tried again."""

    allowed: AllowList
    signer: Signer
    schedule: Schedule
    at_once: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises ValueError with the name of the setting that is wrong, or missing."""
        allowed = AllowList.parse("CAMSERVE_WEBHOOK_HOSTS", settings.webhook_hosts)
        secrets = [one.get_secret_value() for one in settings.webhook_secret]
        if allowed and not secrets:
            raise ValueError(
                "CAMSERVE_WEBHOOK_SECRET is not set, so that receivers could not tell whose "
                'webhooks they get: make one with `echo "whsec_$(openssl rand -base64 32)"`'
            )
        return cls(
            allowed,
            Signer("CAMSERVE_WEBHOOK_SECRET", secrets),
            Schedule(
                settings.webhook_attempts,
                first_s=settings.webhook_retry_s,
                timeout_s=settings.webhook_timeout_s,
                silence_s=settings.lease_s,
            ),
            settings.webhook_connections,
        )

    def check(self, webhook: str | None) -> None:
        """What a request asks for. Raises InvalidRequest, UrlNotAllowed."""
        if webhook is None:
            return
        try:
            self.allowed.check_url(parse_url(webhook))
        except MalformedUrl as error:
            raise InvalidRequest(f"{FIELD} {error}", field=FIELD) from error
        except UrlNotAllowed as error:
            error.extensions["field"] = FIELD
            raise
