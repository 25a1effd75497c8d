"""One attempt: a signed POST, and what its answer means."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

import httpcore2 as httpcore
from opentelemetry import trace

from app.outbound.connections import CheckedConnections
from app.outbound.urls import HttpUrl
from app.webhooks.signing import Signer
from camserve.errors import UrlNotAllowed, UrlUnreachable
from camserve.retry_after import seconds_of
from camserve.tracing import carried

__all__ = ["Outcome", "Sender"]


@dataclass(frozen=True)
class Outcome:
    """error: None of a delivery. is_final: no further attempt is to be made. is_silent: it ran out
    of time. wish_s: after which the receiver wants one."""

    status: int | None = None
    error: str | None = None
    is_final: bool = False
    is_silent: bool = False
    wish_s: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.error is None


class Sender:
    """Posts messages. What receivers answer besides the status is not read."""

    def __init__(self, connections: CheckedConnections, signer: Signer, timeout_s: float) -> None:
        self._connections = connections
        self._signer = signer
        self._timeout_s = timeout_s

    async def send(self, url: HttpUrl, message_id: str, body: bytes) -> Outcome:
        """Never raises for what the receiver does: that is an outcome."""
        headers = {
            **self._signer.headers(message_id, body),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **_traceparent(),
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._connections.request(
                    "POST", url, headers=headers, content=body
                ) as answer:
                    return _outcome(answer)
        except TimeoutError:
            error = f"{url.host} did not answer in {self._timeout_s:g} s"
            return Outcome(error=error, is_silent=True)
        except UrlUnreachable as error:
            return Outcome(error=str(error), is_silent=error.reason == "timeout")
        except UrlNotAllowed as error:
            return Outcome(error=str(error), is_final=True)


def _traceparent() -> dict[str, str]:
    """For the receiver to go on with the trace, if it is recorded; what others added to it
    (`tracestate`) is not the receiver's."""
    if not trace.get_current_span().is_recording():
        return {}
    return {name: value for name, value in carried().items() if name == "traceparent"}


def _outcome(answer: httpcore.Response) -> Outcome:
    status = answer.status
    if 200 <= status < 300:
        return Outcome(status)
    return Outcome(
        status,
        f"the receiver answered {status}",
        is_final=status == HTTPStatus.GONE,
        wish_s=_wish_s(answer)
        if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
        else None,
    )


def _wish_s(answer: httpcore.Response) -> float | None:
    for name, value in answer.headers:
        if name.lower() == b"retry-after":
            return seconds_of(value.decode(errors="replace"))
    return None
