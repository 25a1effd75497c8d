"""An API process that is told to stop does not wait for those who follow an explanation."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from camserve.broker import QueueOptions, Registry, WorkerQueue, connect
from tests.app.front import Front, png
from tests.service import Service

pytestmark = pytest.mark.anyio


async def test_streams_end_with_the_process(redis_url: str, tmp_path: Path) -> None:
    service = Service(redis_url, tmp_path, tmp_path, drain_s=100)
    options = QueueOptions()
    async with connect(redis_url) as redis:
        registry, worker = Registry(redis, options), WorkerQueue(redis, options, "w1")
        front = Front(None, redis, options, registry, worker)  # type: ignore[arg-type]
        await front.publish()
        await anyio.to_thread.run_sync(service.start, "app")
    with service.client() as client:
        sent = {"Content-Type": "image/png", "Prefer": "respond-async"}
        url = "/v1/explanations?model=toy"
        href = client.post(url, content=png(), headers=sent).headers["Location"]
        with client.stream("GET", f"{href}/events") as response:
            lines = response.iter_lines()
            assert '"state":"queued"' in next(lines)
            api = service.processes["app"]
            api.terminate()
            assert not any(line.startswith("data:") for line in lines)  # to its end
        assert api.wait(90) == 0
    service.stop()
