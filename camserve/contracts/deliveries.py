"""How far the news of an explanation's end have got."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from camserve.contracts.base import Message

__all__ = ["DeliveryOutcome", "WebhookDelivery"]


class DeliveryOutcome(Message):
    """How an attempt ended, as it is kept with the job."""

    status: int | None = Field(None, description="What the receiver answered; null if nothing.")
    error: str | None = Field(None, description="Why it was no delivery; null if it was one.")


class WebhookDelivery(DeliveryOutcome):
    """What became of the webhook: `status` and `error` are those of the last attempt."""

    state: Literal["pending", "delivered", "failed"] = Field(
        description="`pending` while the explanation is open or another attempt is to come; "
        "`failed` when it is given up."
    )
    attempts: int
    next_attempt_at: datetime | None = Field(None, description="Null if none is due.")
