"""Known traffic over two front ends and two workers, one of which is killed: what `/metrics` says
has grown by exactly that, and both front ends say it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import redis

from camserve.broker.embedded import EmbeddedServer
from tests.app.test_metrics import Samples, changes, labels, parsed, value
from tests.service import ROOT, Service, make_repository

SAMPLE = (ROOT / "models" / "shapes" / "samples" / "star.png").read_bytes()
EXPLAIN, PREDICT = "/v1/explanations", "/v1/models/shapes/predict"


def scrape(service: Service) -> Samples:
    with service.client() as client:
        response = client.get("/metrics")
    assert response.status_code == 200
    return parsed(response.text)


def post(client: httpx.Client, path: str, status: int, inputs: int = 1, **fields: str) -> str:
    asynchronous = {"Prefer": "respond-async"} if status == 202 else {}
    data = ({"model": "shapes"} if path == EXPLAIN else {}) | fields
    response = client.post(
        path, data=data, files=[("input", ("star.png", SAMPLE))] * inputs, headers=asynchronous
    )
    assert response.status_code == status, response.text
    return response.headers.get("Location", "")


def kill_the_worker_of_a_job(service: Service, store: redis.Redis) -> int:
    """SIGKILL a worker while it has a job; returns how many jobs that took."""
    for jobs in range(1, 20):
        with service.client() as client:
            href = post(client, EXPLAIN, 202, inputs=16, method="layercam")
            job = f"cam:{{shapes}}:job:{href.rpartition('/')[2]}"
            service.wait_for(lambda _, job=job: store.hget(job, "state") != b"queued")
            worker = store.hget(job, "consumer")
            record = json.loads(store.hget("cam:workers", worker).split(b"\n", 2)[-1])
            os.kill(record["pid"], signal.SIGSTOP)
            if store.hget(job, "state") == b"running":
                os.kill(record["pid"], signal.SIGKILL)
                service.wait_for(
                    lambda client, href=href: client.get(href).json()["state"] == "succeeded"
                )
                return jobs
            os.kill(record["pid"], signal.SIGCONT)  # it was quicker
    raise AssertionError("no job was caught while it ran")


def test_every_counter_grows_by_what_happened(tmp_path: Path) -> None:
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    (tmp_path / "b").mkdir()
    with (
        EmbeddedServer(tmp_path / "state") as server,
        Service(server.url, models, tmp_path, deadline_s=100) as one,
        Service(server.url, models, tmp_path / "b", deadline_s=100) as two,
        redis.Redis.from_url(server.url) as store,
    ):
        one.wait_for(lambda client: client.get("/readyz").json()["workers"] == 2)
        before = {service: scrape(service) for service in (one, two)}
        with one.client() as client:
            for _ in range(3):
                post(client, EXPLAIN, 200)
            post(client, EXPLAIN, 422, class_index="99")
        with two.client() as client:
            for priority in ("interactive", "bulk"):
                post(client, EXPLAIN, 200, priority=priority)
            post(client, PREDICT, 200)

        def is_told(inputs: int) -> bool:
            """What workers measure comes a moment later, and is lost with one that is killed."""
            return sum(changes(before[one], scrape(one), "batch_inputs_sum").values()) >= inputs

        one.wait_for(lambda _: is_told(6))
        caught = kill_the_worker_of_a_job(two, store)
        jobs = 6 + caught
        service_wide = {
            "jobs_accepted_total": {
                labels(model="shapes", priority="interactive"): jobs - 1,
                labels(model="shapes", priority="bulk"): 1,
            },
            "jobs_total": {labels(model="shapes", state="succeeded"): jobs},
            "job_attempts_total": {labels(model="shapes"): jobs + 1},
            "job_redeliveries_total": {labels(model="shapes"): 1},
            "queue_wait_seconds_count": {
                labels(model="shapes", priority="interactive"): jobs - 1,
                labels(model="shapes", priority="bulk"): 1,
            },
        }

        one.wait_for(lambda _: is_told(6 + 16))
        for service in (one, two):
            after = scrape(service)
            for name, expected in service_wide.items():
                assert changes(before[service], after, name) == expected, name
            computed = changes(before[service], after, "compute_seconds_count")
            assert computed[labels(model="shapes", kind="predict")] == 1
            restarts = changes(before[service], after, "worker_restarts_total")
            assert [(dict(of)["how"], n) for of, n in restarts.items()] == [("SIGKILL", 1)]
            assert value(after, "dead_letters", model="shapes") == 0
            depths = [v for (name, _), v in after.items() if name == "camserve_queue_depth"]
            assert depths == [0, 0, 0]
        posts = {
            one: {("200", EXPLAIN): 3, ("422", EXPLAIN): 1},
            two: {
                ("200", EXPLAIN): 2,
                ("202", EXPLAIN): caught,
                ("200", "/v1/models/{model}/predict"): 1,
            },
        }
        for service, expected_posts in posts.items():
            grown = changes(before[service], scrape(service), "http_requests_total")
            assert {
                (dict(of)["status"], dict(of)["route"]): n
                for of, n in grown.items()
                if dict(of)["method"] == "POST"
            } == expected_posts
        problems = changes(before[one], scrape(one), "problems_total")
        assert problems == {labels(code="class_index_out_of_range"): 1}
