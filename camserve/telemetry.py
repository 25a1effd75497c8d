"""The export of traces by OTLP over HTTP, where the environment names a collector.

OpenTelemetry's own variables say where to (`OTEL_EXPORTER_OTLP_ENDPOINT`), which part
(`OTEL_TRACES_SAMPLER`) and as what (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`); the SDK reads
them. Spans are sent by a thread of the SDK's: a collector that is slow or away costs spans and
nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from opentelemetry import trace

from camserve import __version__
from camserve.logs import get_logger

__all__ = ["FLUSH_S", "start_telemetry"]

logger = get_logger(__name__)

FLUSH_S: Final = 2.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def start_telemetry(process: str, **attributes: str) -> Callable[[], None]:
    """Export this process's spans as the service `camserve-<process>`, if a collector is named.

    attributes: of the resource, besides what the environment says. Returns what stops it: sends
    what there is, in at most `FLUSH_S`. What cannot be set up is logged, and the service goes on
    without. One that somebody else set up (`opentelemetry-instrument`) stays.
    """
    if not _is_wanted() or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _nothing
    try:
        return _started(process, attributes)
    except ImportError:
        logger.error(  # noqa: TRY400 - a sentence, no traceback
            "traces are not exported: pip install 'camserve[telemetry]'"
        )
    except Exception:
        logger.exception("traces are not exported")
    return _nothing


def _started(process: str, attributes: dict[str, str]) -> Callable[[], None]:
    # a third of a second to import, and optional
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.version": __version__, **attributes})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):  # nobody named it
        resource = resource.merge(Resource({"service.name": f"camserve-{process}"}))
    # not at exit: that would wait for a collector that hangs
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)

    def stop() -> None:
        # the SDK's own limit is half a minute
        stopping = threading.Thread(target=provider.shutdown, name="telemetry", daemon=True)
        stopping.start()
        stopping.join(FLUSH_S)
        if stopping.is_alive():
            logger.warning("the last spans are lost: the collector did not take them in time")

    return stop


def _is_wanted() -> bool:
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporters.strip() == "none":
        return False
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), None)
    if exporters.strip() != "otlp" or protocol not in {None, "http/protobuf"}:
        logger.error(
            "traces are not exported: only otlp over http/protobuf is there",
            exporters=exporters,
            protocol=protocol,
        )
        return False
    return True


def _nothing() -> None:
    pass
