"""A stand-in for an OpenTelemetry collector: OTLP over HTTP, decoded and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

__all__ = ["Collector", "Span"]

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Span:
    """links: (trace id, span id). service: that of the process it came from."""

    name: str
    trace_id: str
    id: str
    parent: str | None
    kind: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    service: str
    failed: bool
    start_ns: int
    end_ns: int


class Collector:
    """Listens on loopback. hold: while it is not set, no export is answered."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.spans: list[Span] = []
        self.exports = 0
        self._is_closed = False
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with collector._news:
                    collector.exports += 1
                    collector._news.notify_all()
                collector.hold.wait(PATIENCE_S)
                if collector._is_closed or self.path != "/v1/traces":
                    return
                collector._keep(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",  # ms
        }

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        found = []
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                assert scope.scope.name == "camserve"
                found += [_span(span, service) for span in scope.spans]
        with self._news:
            self.spans += found
            self._news.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """What `condition` gives, once it holds; it is asked whenever there are new spans."""
        with self._news:
            held = self._news.wait_for(condition, PATIENCE_S)
        assert held, f"not in time; there are {[span.name for span in self.spans]}"
        return held

    def trace(self, trace_id: str, *names: str) -> list[Span]:
        """The spans of a trace, once there are some of all these names."""

        def there() -> bool:
            known = {span.name for span in self.spans if span.trace_id == trace_id}
            return known >= set(names)

        self.wait_for(there)
        return [span for span in self.spans if span.trace_id == trace_id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closed = True
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _span(span: SpanMessage, service: str) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex() or None,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        service=service,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in pairs}
