"""Many requests, valid and not: no 5xx, nothing left open, and no more memory than before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.e2e.mixed_load import Usage, flood
from tests.service import ROOT, Service, make_repository

SPARE_FILES = 32  # connections to Redis come and go; a leak leaves one for each request


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Service]:
    """A service of its own, whose processes nobody else keeps busy."""
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    with (
        EmbeddedServer(tmp_path / "state") as server,
        # what was given up on by its caller still waits for its turn
        Service(server.url, models, tmp_path, queue_depth=4096, job_ttl_s=30) as running,
    ):
        yield running


def settled(service: Service) -> Usage:
    """Once nothing waits, and the connections of the clients are closed."""
    service.wait_for(
        lambda client: client.get("/v1/models").json()["models"][0]["queue_depth"] == 0
    )
    return Usage.of(service)


def run(service: Service, count: int, warm_up: int, growth: int) -> None:
    """growth: bytes that a part may have more at the end than after warming up."""
    asyncio.run(flood(service, warm_up, seed=0))
    before = settled(service)
    report = asyncio.run(flood(service, count))
    after = settled(service)
    assert not report.errors, report
    assert {200, 400, 404, 405, 413, 415, 422, "left"} <= set(report.statuses)
    for part in before.files:
        assert after.files[part] <= before.files[part] + SPARE_FILES, (part, before, after)
        assert after.resident[part] <= before.resident[part] + growth, (part, before, after)
    assert "Traceback" not in service.log.read_text()


@pytest.mark.timeout(180)
def test_a_few_hundred_mixed_requests(loaded: Service) -> None:
    run(loaded, 300, warm_up=100, growth=400_000_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_mixed_requests(loaded: Service) -> None:
    """As many again must not leave more than noise behind."""
    run(loaded, 10_000, warm_up=2_000, growth=100_000_000)
