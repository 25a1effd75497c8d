"""`/readyz` tells the truth: a service whose only worker is frozen or dead is not ready."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import httpx

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository


def not_ready(client: httpx.Client) -> bool:
    assert client.get("/livez").status_code == 200
    response = client.get("/readyz")
    assert response.json()["ready"] is (response.status_code == 200)
    return response.status_code == 503


def test_it_is_false_without_a_worker_and_true_again_with_one(tmp_path: Path) -> None:
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    with (
        EmbeddedServer(tmp_path / "state") as server,
        Service(server.url, models, tmp_path, worker_stale_s=2) as service,
    ):
        group = service.processes["workers"].pid  # the supervisor and its child
        os.killpg(group, signal.SIGSTOP)
        try:
            service.wait_for(not_ready)
        finally:
            os.killpg(group, signal.SIGCONT)
        service.wait_ready()
        os.killpg(group, signal.SIGKILL)
        service.processes.pop("workers").wait()
        service.wait_for(not_ready)
        with contextlib.closing(service.client()) as client:
            found = client.get("/readyz").json()
        assert (found["workers"], found["found"]) == (0, [])
        service.start("workers")
