"""What both transports know: where the service is, how it is asked, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import httpx

from camserve import __version__
from camserve.client.calls import Call
from camserve.client.operations import Send
from camserve.client.retries import Patience, Wait
from camserve.environment import API_KEY, URL
from camserve.loopback import is_loopback

__all__ = ["DEFAULT_URL", "Endpoint", "OnWait", "request_of"]

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_CONNECT_S: Final = 5.0
# as many as somebody may want at once: the limit is the caller's concurrency, and the server's
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=64)

OnWait: TypeAlias = Callable[[Wait], None]


@dataclass(frozen=True)
class Endpoint:
    """A service, and whom it is told that we are."""

    base_url: httpx.URL
    api_key: str | None
    patience: Patience

    @classmethod
    def of(
        cls, base_url: str | None, api_key: str | None, timeout_s: float, reconnect_s: float
    ) -> Endpoint:
        """Of arguments, else of the environment. Raises ValueError for what is no URL or key."""
        text = base_url or os.environ.get(URL) or DEFAULT_URL
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError(f"{text!r} is no URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{text!r} is no URL of a service: give one as in {DEFAULT_URL}")
        key = api_key or os.environ.get(API_KEY) or None
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("the API key holds characters that none has")
        return cls(url, key, Patience(timeout_s, reconnect_s))

    def client_options(self) -> dict[str, Any]:
        """Arguments of both of httpx's clients."""
        headers = {"User-Agent": f"camserve-client/{__version__}"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.base_url,
            "headers": headers,
            "limits": _LIMITS,
            # no proxy leads to this very machine
            "trust_env": not is_loopback(self.base_url.host),
        }

    def patience_of(self, timeout_s: float | None) -> Patience:
        """That of a call, which may have a time of its own."""
        if timeout_s is None:
            return self.patience
        return Patience(timeout_s, min(self.patience.reconnect_s, timeout_s))


def request_of(client: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    """The request of a call. Blocks for as long as it takes to write megabytes."""
    call: Call = send.call
    timeout = httpx.Timeout(send.timeout_s, connect=min(_CONNECT_S, send.timeout_s))
    return client.build_request(
        call.method, call.path, headers=call.request_headers(), timeout=timeout, **call.body()
    )
