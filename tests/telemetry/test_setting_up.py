"""When traces are exported, and what is said where they cannot be. Where they are, in processes of
their own: a provider is set once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from opentelemetry import trace

from camserve.telemetry import start_telemetry
from tests.service import ROOT
from tests.telemetry.collector import Collector

SPEAKER = """
import logging
import sys
from opentelemetry import trace
from camserve.telemetry import start_telemetry
from camserve.tracing import tracer

logging.basicConfig()
if "brought" in sys.argv:
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
before = trace.get_tracer_provider()
stop = start_telemetry("worker", **{"service.instance.id": "w1"})
with tracer.start_as_current_span("spoken"):
    pass
stop()
print(trace.get_tracer_provider() is before)
"""


def spoken(*arguments: str, **environment: str) -> tuple[str, str]:
    """What a process prints, and what it logs."""
    process = subprocess.run(
        [sys.executable, "-c", SPEAKER, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return process.stdout.strip(), process.stderr


def test_what_is_exported_at_the_end() -> None:
    with Collector() as collector:
        resource = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
        assert spoken(**collector.environment, **resource) == ("False", "")
        (span,) = collector.spans
    assert (span.name, span.service) == ("spoken", "camserve-worker")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ""),
        ({"OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only otlp over http/protobuf is there"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "only otlp over http/protobuf is there"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "max_queue_size must be a positive integer"),
    ],
)
def test_where_nothing_is_exported_nothing_is_set_up(
    environment: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start_telemetry("worker")()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_without_the_extra_the_remedy_is_said_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    start_telemetry("worker")()
    assert "pip install 'camserve[telemetry]'" in caplog.text
    assert "Traceback" not in caplog.text


def test_what_somebody_else_set_up_stays() -> None:
    with Collector() as collector:
        assert spoken("brought", **collector.environment) == ("True", "")
        assert not collector.exports
