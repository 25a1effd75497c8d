"""A worker killed with SIGKILL while it holds jobs: every job still succeeds, each once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import redis

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository

JOBS = 16
INPUTS = 16
SAMPLE = (ROOT / "models" / "shapes" / "samples" / "star.png").read_bytes()
OPEN = {"queued", "running"}


def worker_child(service: Service) -> psutil.Process:
    supervisor = psutil.Process(service.processes["workers"].pid)
    return next(c for c in supervisor.children() if "workers.child" in " ".join(c.cmdline()))


def submit(service: Service) -> str:
    """One job of many inputs, so that it takes a while; where it can be read."""
    with service.client() as client:
        response = client.post(
            "/v1/explanations",
            data={"model": "shapes", "class_label": "star"},
            files=[("input", ("star.png", SAMPLE))] * INPUTS,
            headers={"Prefer": "respond-async"},
        )
    assert response.status_code == 202, response.text
    return response.headers["Location"]


def running(store: redis.Redis) -> int:
    """Jobs that a worker has begun and not finished."""
    return sum(store.hget(job, "state") == b"running" for job in store.scan_iter("cam:*:job:*"))


def test_every_job_succeeds_once(tmp_path: Path) -> None:
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    with (
        EmbeddedServer(tmp_path / "state") as server,
        Service(server.url, models, tmp_path, deadline_s=100) as service,
        ThreadPoolExecutor(4) as clients,
        redis.Redis.from_url(server.url) as store,
    ):
        victim = worker_child(service)
        submissions = [clients.submit(submit, service) for _ in range(JOBS)]
        service.wait_for(lambda _: running(store) > 0)
        victim.kill()
        where = [submission.result() for submission in submissions]
        service.wait_for(
            lambda client: not any(client.get(href).json()["state"] in OPEN for href in where)
        )
        with service.client() as client:
            done = [client.get(href).json() for href in where]
        assert {explanation["state"] for explanation in done} == {"succeeded"}
        assert all(len(explanation["results"]) == INPUTS for explanation in done)
        attempts = [explanation["attempts"] for explanation in done]
        assert set(attempts) == {1, 2}  # the killed worker held some of them, not all
        assert worker_child(service).pid != victim.pid
        # nothing is left to be done twice
        assert sum(store.xlen(stream) for stream in store.scan_iter("cam:*:stream:*")) == 0
