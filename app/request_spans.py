"""Every request is a span, of the caller's trace if it names one (`traceparent`)."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, use_span
from starlette._utils import get_route_path  # the very path that the router goes by
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.request_log import METHODS, is_probe, route_of
from camserve.errors import shortened
from camserve.tracing import context_of, tracer

__all__ = ["RequestSpans"]


class RequestSpans:
    """ASGI middleware: the server's span, by OpenTelemetry's conventions for HTTP.

    Without its query, which may hold a signature. Probes are not traced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        headers = Headers(scope=scope)
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        caller = context_of({name: headers.get(name) for name in ("traceparent", "tracestate")})
        span = trace.get_current_span(caller)
        if not is_probe(get_route_path(scope)):
            span = tracer.start_span(
                method,
                caller,
                SpanKind.SERVER,
                {"http.request.method": method, "url.path": shortened(scope["path"])},
            )

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note(span, message["status"])
            await send(message)

        with use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                await self._app(scope, receive, send_noting)
            finally:
                if route := route_of(scope):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)


def _note(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
