"""What a front end measures of its requests: by route, never by an address that is made up."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.request_log import METHODS, route_of

__all__ = ["MeasureRequests", "RequestMetrics"]

UNKNOWN_ROUTE: Final = "unknown"
NO_ANSWER: Final = "none"
OTHER_METHOD: Final = "other"
_SECONDS: Final = tuple(0.001 * 2**n for n in range(18))
_STAGE: Final = re.compile(r"(prepare|present);dur=([\d.]+)")


class RequestMetrics:
    """Of one process, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "camserve_http_requests",
            "Requests that are over, by route (`unknown`: refused before it was looked for, or "
            "there is none), method and status (`none`: no answer had begun when the client left).",
            ("route", "method", "status"),
            registry=registry,
        )
        self.duration = Histogram(
            "camserve_http_request_duration_seconds",
            "From the arrival of a request to the end of its answer, waiting included.",
            ("route", "method"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "camserve_http_requests_in_flight",
            "Requests that are being answered.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.received = Counter(
            "camserve_http_received_bytes",
            "Bytes of the bodies of requests.",
            ("route",),
            registry=registry,
        )
        self.sent = Counter(
            "camserve_http_sent_bytes",
            "Bytes of the bodies of answers.",
            ("route",),
            registry=registry,
        )
        self.problems = Counter(
            "camserve_problems",
            "Requests that were answered by a problem, by its code: `rate_limited`, `queue_full`.",
            ("code",),
            registry=registry,
        )
        self.stages = Histogram(
            "camserve_stage_seconds",
            "What the front end does itself, as `Server-Timing` says: `prepare` (decode, resize) "
            "and `present` (resample, draw, encode).",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.input_lookups = Counter(
            "camserve_input_cache_lookups",
            "Uploaded files by whether what they became was remembered: a `hit` was not decoded.",
            ("result",),
            registry=registry,
        )
        self.input_cache_bytes = Gauge(
            "camserve_input_cache_bytes",
            "What uploads became that is remembered.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "camserve_event_loop_lag_seconds",
            "How much later than it was due the event loop came to a task.",
            buckets=_SECONDS,
            registry=registry,
        )

    async def watch_loop(self, every_s: float) -> None:
        """Measure for ever how late the event loop is."""
        clock = asyncio.get_running_loop()
        while True:
            due_s = clock.time() + every_s
            await asyncio.sleep(every_s)
            self.loop_lag.observe(max(clock.time() - due_s, 0))


class MeasureRequests:
    """ASGI middleware around all others: it sees what the client sees."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        scope.setdefault("state", {})
        status, received, sent = NO_ANSWER, 0, 0

        async def receive_measured() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_measured(message: Message) -> None:
            nonlocal status, sent
            await send(message)
            if message["type"] == "http.response.start":
                status = str(message["status"])
                self._observe_stages(Headers(raw=message["headers"]))
            else:
                sent += len(message.get("body", b""))

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive_measured, send_measured)
        finally:
            self._metrics.in_flight.dec()
            self._count(scope, status, time.perf_counter() - began_s, received, sent)

    def _count(self, scope: Scope, status: str, took_s: float, received: int, sent: int) -> None:
        metrics = self._metrics
        route = route_of(scope) or UNKNOWN_ROUTE
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        metrics.requests.labels(route, method, status).inc()
        metrics.duration.labels(route, method).observe(took_s)
        if received:
            metrics.received.labels(route).inc(received)
        if sent:
            metrics.sent.labels(route).inc(sent)
        if code := scope["state"].get("problem_code"):
            metrics.problems.labels(code).inc()

    def _observe_stages(self, headers: Headers) -> None:
        for stage, ms in _STAGE.findall(headers.get("server-timing", "")):
            self._metrics.stages.labels(stage).observe(float(ms) / 1000)
