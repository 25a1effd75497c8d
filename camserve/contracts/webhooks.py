"""What a webhook says, in the form of Standard Webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.explanations import Explanation

__all__ = ["WebhookEvent"]


class WebhookEvent(Message):
    """An explanation has come to its end. Sent at least once: `webhook-id` tells repetitions."""

    type: Literal[
        "explanation.succeeded",
        "explanation.failed",
        "explanation.canceled",
        "explanation.expired",
        "explanation.dead",
    ]
    timestamp: datetime = Field(description="When the explanation ended.")
    data: Explanation = Field(
        description="The explanation as GET gives it, with links to its maps and none of them "
        "inside; its `webhook` is null here."
    )
