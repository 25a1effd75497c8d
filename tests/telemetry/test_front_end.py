"""A front end in its own process, with a collector and a worker that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from camserve.broker import Registry, WorkerQueue, connect
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.app.front import Front, png
from tests.app.outbound.web_server import WebServer, answer, web_server
from tests.app.webhooks.inbox import SECRET, Inbox
from tests.service import ROOT, free_port
from tests.telemetry.collector import Collector
from tests.telemetry.conftest import new_trace

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0
PIPE_BYTES = 4096
ENOUGH = 60  # requests, whose lines are more than a pipe holds


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@contextlib.asynccontextmanager
async def front_end(
    redis_url: str, collector: Collector, log: int, **environment: str
) -> AsyncIterator[tuple[Front, subprocess.Popen[bytes]]]:
    """log: where it writes to. It must end by itself within `PATIENCE_S` of a SIGTERM."""
    port = free_port()
    process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env=os.environ
        | collector.environment
        | {"CAMSERVE_REDIS_URL": redis_url, "CAMSERVE_PORT": str(port), **environment},
        stderr=log,
    )
    options = queue_options(Settings(redis_url=redis_url))
    url = f"http://127.0.0.1:{port}"
    redis: Redis = connect(redis_url)
    try:
        async with redis, httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            registry, worker = Registry(redis, options), WorkerQueue(redis, options, "w1")
            front = Front(client, redis, options, registry, worker)
            await front.publish()
            await until_it_answers(client)
            yield front, process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


async def until_it_answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get("/livez")
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


async def test_what_others_learn_of_a_trace_and_what_is_sent_at_the_end(
    redis_url: str, collector: Collector, web: WebServer, tmp_path: Path
) -> None:
    """Receivers of webhooks go on with it; hosts of inputs know nothing. SIGTERM sends all."""
    web.pages["/star.png"] = answer(png())
    inbox = Inbox(web)
    environment = {
        "CAMSERVE_FETCH_HOSTS": web.entry,
        "CAMSERVE_WEBHOOK_HOSTS": web.entry,
        "CAMSERVE_WEBHOOK_SECRET": SECRET,
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # ms: only the end sends them
        "OTEL_SERVICE_NAME": "somebody's",
    }
    trace_id, headers = new_trace()
    document = {
        "model": "toy",
        "inputs": [{"image": {"url": web.url("/star.png")}}],
        "targets": [{"class_index": 1}],
        "webhook": inbox.url,
    }
    with (tmp_path / "log").open("wb") as log:
        async with front_end(redis_url, collector, log.fileno(), **environment) as (front, _):
            asked = front.client.post(
                "/v1/explanations",
                json=document,
                headers={**headers, "tracestate": "vendor=secret", "X-Request-ID": "r-1"},
            )
            response, job, _tensors = await front.done(asked)
            assert response.status_code == 200, response.text
            await inbox.next()
            assert not collector.spans
    assert job.tracestate == "vendor=secret"
    fetched, delivered = web.asked
    assert "traceparent" not in fetched.headers
    assert "tracestate" not in delivered.headers
    spans = {span.name: span for span in collector.spans if span.trace_id == trace_id}
    delivery = spans["deliver webhook"]
    assert delivered.headers["traceparent"] == f"00-{trace_id}-{delivery.id}-01"
    assert (delivery.kind, delivery.parent) == ("client", spans["enqueue"].id)
    assert delivery.attributes["http.response.status_code"] == 204
    assert spans["fetch input"].parent == spans["prepare"].id
    assert job.traceparent == f"00-{trace_id}-{spans['enqueue'].id}-01"
    assert {span.service for span in collector.spans} == {"somebody's"}
    assert not [span for span in collector.spans if "livez" in str(span)]


async def test_neither_the_log_nor_the_collector_holds_anything_up(
    redis_url: str, collector: Collector
) -> None:
    """A pipe that nobody reads, and exports that nobody answers: requests are answered, and a
    SIGTERM ends the process."""
    collector.hold.clear()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        async with front_end(
            redis_url, collector, writing, CAMSERVE_LOG_FORMAT="json", OTEL_BSP_MAX_QUEUE_SIZE="64",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32",
        ) as (front, process):  # fmt: skip
            for _ in range(ENOUGH):
                response = await front.client.get("/v1/models")
                assert response.status_code == 200
            collector.wait_for(lambda: collector.exports)
            assert process.poll() is None
    finally:
        os.close(writing)
        os.close(reading)
    assert not collector.spans
