"""Redis, front end and workers may be started in any order: all of them find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository

SAMPLE = (ROOT / "models" / "shapes" / "samples" / "star.png").read_bytes()


@pytest.mark.parametrize(
    "order",
    [
        ("app", "workers", "redis"),
        pytest.param(("workers", "app", "redis"), marks=pytest.mark.soak),
        pytest.param(("workers", "redis", "app"), marks=pytest.mark.soak),
        pytest.param(("app", "redis", "workers"), marks=pytest.mark.soak),
        pytest.param(("redis", "workers", "app"), marks=pytest.mark.soak),
        pytest.param(("redis", "app", "workers"), marks=pytest.mark.soak),
    ],
    ids=" ".join,
)
def test_all_come_up_by_themselves(tmp_path: Path, order: tuple[str, ...]) -> None:
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    server = EmbeddedServer(tmp_path / "state")
    server.start()
    service = Service(server.url, models, tmp_path)
    server.stop()
    try:
        for part in order:
            if part == "redis":
                server.start()
            else:
                service.start_part(part)
                _is_up(service, part, with_redis="redis" in order[: order.index(part)])
        service.wait_ready()
        with service.client() as client:
            form = {"model": "shapes", "class_label": "star"}
            response = client.post("/v1/explanations", data=form, files={"input": SAMPLE})
            assert response.status_code == 200, response.text
        assert "Traceback" not in service.log.read_text()
    finally:
        service.stop()
        server.stop()


def _is_up(service: Service, part: str, *, with_redis: bool) -> None:
    """It runs, and has met what is not there yet."""
    if part == "workers":
        said = "worker ready" if with_redis else "Redis is away: waiting for it"
        service.wait_for(lambda _: said in service.log.read_text())
        return
    service.wait_for(lambda client: client.get("/livez").status_code == 200)
    if "workers" not in service.processes or not with_redis:
        with service.client() as client:
            assert client.get("/readyz").status_code == 503
            asked = client.post("/v1/explanations?model=shapes", content=SAMPLE)
            assert asked.status_code == 503, asked.text
            assert "Retry-After" in asked.headers
