"""`/metrics` on a front end: what each request adds, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import gzip
import math
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from camserve.api_keys import Scope
from camserve.broker import JobQueue, Priority, Totals, keys
from camserve.contracts.cards import DeviceMemory
from camserve.measures import COMPUTE_SECONDS, DEVICE_BUSY_SECONDS, Tally
from tests.app.front import Front, problem, running_front
from tests.app.keys import add_key, guarded_front
from tests.broker.jobs import submit

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus(text)
        for sample in family.samples
    }


async def scrape(front: Front) -> Samples:
    response = await front.client.get("/metrics")
    assert response.status_code == 200, response.text
    return parsed(response.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"camserve_{name}", frozenset(labels.items())), 0.0)


def changes(before: Samples, after: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """By labels, how much the series of a metric have grown, those that have."""
    full = f"camserve_{name}"
    grown = {key: v - before.get(key, 0.0) for key, v in after.items() if key[0] == full}
    return {labels: by for (_, labels), by in grown.items() if by}


def labels(**of: str) -> frozenset[tuple[str, str]]:
    return frozenset(of.items())


async def test_requests_are_counted_by_route_method_and_status(front: Front) -> None:
    before = await scrape(front)
    for _ in range(3):
        await front.client.get("/livez")
    await front.client.head("/livez")
    for address in ("/nothing", "/nothing/else", "/v1/models/%00", "/v1/models/other/predict/x"):
        await front.client.get(address)
    await front.client.post("/livez")
    await front.client.get("/v1/models/toy")
    await front.client.get("/v1/models/other")
    await front.client.request("BREW", "/livez")
    found = changes(before, await scrape(front), "http_requests_total")
    found.pop(labels(route="/metrics", method="GET", status="200"))
    assert found == {
        labels(route="/livez", method="GET", status="200"): 3,
        labels(route="/livez", method="HEAD", status="200"): 1,
        labels(route="/livez", method="POST", status="405"): 1,
        labels(route="/livez", method="other", status="405"): 1,
        labels(route="unknown", method="GET", status="404"): 3,
        labels(route="/v1/models/{model}", method="GET", status="404"): 2,
        labels(route="/v1/models/{model}", method="GET", status="200"): 1,
    }


async def test_no_caller_can_make_series(front: Front) -> None:
    await front.client.get("/warm")
    before = set(await scrape(front))
    for number in range(50):
        await front.client.get(f"/made-up/{number}")
        await front.client.get(f"/v1/models/made-up-{number}")
        await front.client.get(f"/v1/explanations/made-up-{number}")
        await front.client.request(f"MADE{number}", "/made-up")
    fresh = {key for key in set(await scrape(front)) - before if "made" in str(key).lower()}
    assert fresh == set()


async def test_a_request_is_measured_from_end_to_end(front: Front) -> None:
    before = await scrape(front)
    response, _, _ = await front.done(front.post())
    after = await scrape(front)
    route = {"route": "/v1/explanations"}
    duration = "http_request_duration_seconds"
    assert value(after, f"{duration}_count", method="POST", **route) == 1
    assert value(after, f"{duration}_bucket", method="POST", le="+Inf", **route) == 1
    assert value(after, f"{duration}_sum", method="POST", **route) > 0
    sent = len(response.request.content)
    assert value(after, "http_received_bytes_total", **route) == sent
    assert value(after, "http_sent_bytes_total", **route) == len(response.content)
    for stage in ("prepare", "present"):
        assert value(after, "stage_seconds_count", stage=stage) == 1
        assert value(before, "stage_seconds_count", stage=stage) == 0
    assert value(after, "http_requests_in_flight") == 1  # the scrape itself
    assert value(after, "event_loop_lag_seconds_count") >= 0
    assert after["process_resident_memory_bytes", frozenset()] > 1e6


async def test_problems_are_counted_by_their_code(redis_url: str) -> None:
    async with running_front(redis_url, rate_limit_per_minute=2, queue_depth=1) as front:
        await front.publish()
        before = await scrape(front)
        assert (await front.post(headers={"Prefer": "respond-async"})).status_code == 202
        problem(await front.post(), 429, "queue_full")
        problem(await front.post(), 429, "rate_limited")
        problem(await front.client.get("/nothing"), 404, "not_found")
        after = await scrape(front)
        assert changes(before, after, "problems_total") == {
            labels(code=code): 1 for code in ("queue_full", "rate_limited", "not_found")
        }
        refused = changes(before, after, "http_requests_total")
        # refused before its route was looked for
        assert refused[labels(route="unknown", method="POST", status="429")] == 1


async def test_who_hangs_up_before_an_answer_is_counted_as_such(front: Front) -> None:
    before = await scrape(front)
    asked = asyncio.create_task(front.post())
    await front.begin()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    found = changes(before, await scrape(front), "http_requests_total")
    assert found[labels(route="/v1/explanations", method="POST", status="none")] == 1
    assert value(await scrape(front), "http_requests_in_flight") == 1


async def test_jobs_and_queues_are_told_as_they_are(front: Front, redis_url: str) -> None:
    await front.heartbeat(
        "toy",
        memory=DeviceMemory(used=3, reserved=4, free=5, total=9),
        limited_batches={"toy": 2},
        proof_age_s=7.0,
        device="cuda:1",
    )
    queue_before = await scrape(front)
    assert value(queue_before, "jobs_total", model="toy", state="dead") == 0
    assert ("camserve_jobs_total", labels(model="toy", state="dead")) in queue_before
    async with running_front(redis_url) as other:
        await other.post(headers={"Prefer": "respond-async"})
        await other.post(headers={"Prefer": "respond-async"}, params={"priority": "bulk"})
        begun = await front.begin()
        here, there = await scrape(front), await scrape(other)
        of_service = {k: v for k, v in here.items() if _is_of_service(k[0])}
        same = {k: there.get(k) for k in of_service}
        assert {k: v for k, v in of_service.items() if same[k] != v and not _ages(k[0])} == {}
    for priority, depth, waiting in (("interactive", 1, 0), ("bulk", 1, 1), ("redelivered", 0, 0)):
        of = {"model": "toy", "priority": priority}
        assert value(here, "queue_depth", **of) == depth
        assert value(here, "queue_waiting", **of) == waiting
    assert value(here, "queue_oldest_waiting_seconds", model="toy", priority="bulk") >= 0
    assert value(here, "jobs_accepted_total", model="toy", priority="bulk") == 1
    assert value(here, "job_attempts_total", model="toy") == 1
    wait = {"model": "toy", "priority": "interactive"}
    assert value(here, "queue_wait_seconds_count", **wait) == 1
    assert await front.worker.fail(begun, b'{"code": "internal", "detail": ""}')
    after = await scrape(front)
    assert value(after, "jobs_total", model="toy", state="failed") == 1
    assert value(after, "workers", state="ready") == 1
    assert value(after, "workers", state="starting") == 0
    assert (value(after, "ready"), value(after, "redis_up")) == (1, 1)
    place = {"worker": "w1", "host": "here", "device": "cuda:1"}
    assert value(after, "model_resident", model="toy", **place) == 1
    assert value(after, "batch_limit_inputs", model="toy", **place) == 2
    assert 7 <= value(after, "worker_proof_age_seconds", **place) < 60
    memory = [
        value(after, f"device_memory_{name}_bytes", **place)
        for name in ("used", "reserved", "free", "total")
    ]
    assert memory == [3, 4, 5, 9]


def _is_of_service(name: str) -> bool:
    own = ("http_", "problems", "stage_", "input_cache", "event_loop", "build_info")
    return name.startswith("camserve_") and not name.removeprefix("camserve_").startswith(own)


def _ages(name: str) -> bool:
    return "age" in name or "oldest" in name


async def test_what_workers_measured_is_told(front: Front) -> None:
    tally = Tally()
    for seconds in (0.0005, 0.003, 500):
        tally.observe(COMPUTE_SECONDS, seconds, "explain", model="toy")
    tally.count(DEVICE_BUSY_SECONDS, "gpu7", "cuda:0", model=None, by=1.5)
    await Totals(front.redis).add(tally.take(), "nonce")
    found = await scrape(front)
    of = {"model": "toy", "kind": "explain"}
    assert value(found, "compute_seconds_bucket", le="0.001", **of) == 1
    assert value(found, "compute_seconds_bucket", le="0.004", **of) == 2
    assert value(found, "compute_seconds_bucket", le="131.072", **of) == 2
    assert value(found, "compute_seconds_bucket", le="+Inf", **of) == 3
    assert value(found, "compute_seconds_count", **of) == 3
    assert math.isclose(value(found, "compute_seconds_sum", **of), 500.0035)
    assert value(found, "device_busy_seconds_total", host="gpu7", device="cuda:0") == 1.5


async def test_a_redis_that_is_away_hides_only_what_it_knows(redis_url: str) -> None:
    async with running_front("unix:///nowhere/at/all.sock") as front:
        await front.client.get("/livez")
        found = await scrape(front)
        assert (value(found, "redis_up"), value(found, "ready")) == (0, 0)
        assert value(found, "http_requests_total", route="/livez", method="GET", status="200") == 1
        assert not any(name.startswith("camserve_queue") for name, _ in found)


async def test_a_server_that_lost_everything_counts_anew(front: Front) -> None:
    await front.done(front.post())
    assert value(await scrape(front), "jobs_total", model="toy", state="succeeded") == 1
    await front.redis.flushall()
    await front.publish()
    found = await scrape(front)
    assert value(found, "jobs_total", model="toy", state="succeeded") == 0
    assert ("camserve_jobs_total", labels(model="toy", state="succeeded")) in found


async def test_both_formats_are_what_they_say(front: Front) -> None:
    await front.done(front.post())
    plain = await front.client.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.headers["cache-control"] == "no-store"
    asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
    other = await front.client.get("/metrics", headers=asked)
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert other.text.endswith("# EOF\n")
    families = {one.name: one for one in open_metrics(other.text)}
    assert families["camserve_jobs"].type == "counter"
    assert families["camserve_queue_wait_seconds"].type == "histogram"
    theirs = {(s.name, frozenset(s.labels.items())) for f in families.values() for s in f.samples}
    assert {key for key in parsed(plain.text) if _is_of_service(key[0])} <= theirs
    for family in families.values():
        assert family.documentation.endswith("."), family.name
        assert not any(sample.name.endswith("_created") for sample in family.samples)
    head = await front.client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    anything = await front.client.get("/metrics", headers={"Accept": "image/png"})
    assert anything.status_code == 200


async def test_a_page_is_compressed_for_who_can_read_that(front: Front) -> None:
    async with front.client.stream(
        "GET", "/metrics", headers={"Accept-Encoding": "gzip"}
    ) as response:
        raw = b"".join([chunk async for chunk in response.aiter_raw()])
    assert response.headers["content-encoding"] == "gzip"
    assert "camserve_redis_up 1.0" in gzip.decompress(raw).decode()
    plain = await front.client.get("/metrics", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


async def test_a_scrapers_key_opens_the_metrics_and_nothing_else(
    redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    scraper = add_key(path, "prometheus", Scope.METRICS)
    others = [add_key(path, "someone"), add_key(path, "ops", Scope.ADMIN)]
    async with guarded_front(redis_url, path) as front:
        problem(await front.client.get("/metrics"), 401, "api_key_missing")
        front.client.headers["Authorization"] = f"Bearer {scraper}"
        assert (await front.client.get("/metrics")).status_code == 200
        for method, where in (("GET", "/v1/models"), ("POST", "/v1/explanations")):
            problem(await front.client.request(method, where), 403, "scope_missing")
        for key in others:
            front.client.headers["Authorization"] = f"Bearer {key}"
            assert (await front.client.get("/metrics")).status_code == 200


async def test_a_scrape_looks_at_no_single_job(front: Front) -> None:
    """However many jobs there are: a number of commands that only grows with the models."""
    queue = JobQueue(front.redis, front.options)
    for _ in range(30):
        await submit(queue, model="toy", priority=Priority.BULK)
    async with front.redis.monitor() as monitor:
        await front.client.get("/metrics")
        await front.redis.echo("done")
        seen = []
        while not (command := await monitor.next_command())["command"].startswith("ECHO"):
            seen.append(command["command"])
    assert any(one.startswith("EVALSHA") for one in seen)
    assert not any(one.startswith(("KEYS", "SCAN", "HGETALL cam:{toy}:job")) for one in seen)
    assert sum(keys.job("toy", "") in one for one in seen) <= 1  # the head of the line
