"""What a collector gets to see of requests, through a real API, queue and worker."""

from __future__ import annotations

import httpx
import psutil

from tests.telemetry.collector import Span
from tests.telemetry.conftest import Traced, new_trace
from tests.workers.factories import FAULTY

WORKER = ("queue", "process slow", "compute", "commit")
API = ("POST /v1/explanations", "read", "admit", "prepare", "enqueue", "wait", "present")


def tree(spans: list[Span]) -> dict[str, str | None]:
    """The name of each span's parent; None of one that is not there."""
    names = {span.id: span.name for span in spans}
    assert len({span.name for span in spans}) == len(spans), sorted(names.values())
    return {span.name: names.get(span.parent or "") for span in spans}


def one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def batch_of(traced: Traced, span: Span) -> Span:
    """The batch that a compute span names."""
    ((trace_id, span_id),) = span.links
    (batch,) = traced.collector.wait_for(
        lambda: [found for found in traced.collector.spans if found.id == span_id]
    )
    assert batch.trace_id == trace_id
    return batch


def job_id_of(response: httpx.Response) -> str:
    return response.headers["Location"].rpartition("/")[2]


def test_the_stages_of_one_request(traced: Traced) -> None:
    trace_id, headers = new_trace()
    response = traced.ask(headers={**headers, "tracestate": "vendor=mark"})
    assert response.status_code == 200, response.text
    assert response.headers["X-Request-ID"] == trace_id
    spans = traced.collector.trace(trace_id, *API, *WORKER, "fetch result")
    request = "POST /v1/explanations"
    assert tree(spans) == {
        request: None,
        **dict.fromkeys(("read", "admit", "prepare", "enqueue", "wait", "present"), request),
        "fetch result": "present",
        "queue": "enqueue",
        "process slow": "enqueue",
        "compute": "process slow",
        "commit": "process slow",
    }
    server = one(spans, request)
    assert server.parent == headers["traceparent"].split("-")[2]  # the caller's
    assert {span.name: span.kind for span in spans if span.kind != "internal"} == {
        request: "server",
        "enqueue": "producer",
        "process slow": "consumer",
    }
    assert {span.service for span in spans} == {"camserve-api", "camserve-worker"}
    assert all(span.service == "camserve-worker" for span in spans if span.name in WORKER)
    assert server.attributes["http.route"] == "/v1/explanations"
    assert server.attributes["http.response.status_code"] == 200
    assert one(spans, "process slow").attributes["messaging.message.id"] == job_id_of(response)
    assert not any(span.failed for span in spans)
    assert one(spans, "queue").end_ns == one(spans, "process slow").start_ns
    batch = batch_of(traced, one(spans, "compute"))
    assert batch.links == ((trace_id, one(spans, "process slow").id),)
    assert batch.trace_id != trace_id


def test_a_batch_is_linked_to_all_its_jobs(traced: Traced) -> None:
    first = traced.slow_job()
    callers = [new_trace(sampled=sampled) for sampled in (True, True, False)]
    waiting = [traced.ask(headers=headers, wait=False) for _, headers in callers]
    traced.let_go()
    traced.succeeded(first, *waiting)
    traces = [traced.collector.trace(trace_id, *WORKER) for trace_id, _ in callers[:2]]
    batch, same = (batch_of(traced, one(spans, "compute")) for spans in traces)
    assert batch == same
    jobs = {(spans[0].trace_id, one(spans, "process slow").id) for spans in traces}
    assert set(batch.links) == jobs
    assert batch.attributes["messaging.batch.message_count"] == 3
    assert not [span for span in traced.collector.spans if span.trace_id == callers[2][0]]
    # one line a job, and each says whose it is
    for (trace_id, _), response in zip(callers, waiting, strict=True):
        (done,) = traced.lines(job_id=job_id_of(response), event="job done")
        assert (done["request_id"], done["trace_id"]) == (trace_id, trace_id)


def test_a_repeated_request_leads_to_the_first(traced: Traced) -> None:
    (first_id, first), (again_id, again) = new_trace(), new_trace()
    key = {"Idempotency-Key": "traced-twice"}
    made = traced.ask(headers={**first, **key})
    repeated = traced.ask(headers={**again, **key})
    assert job_id_of(made) == job_id_of(repeated)
    spans = traced.collector.trace(again_id, *API)
    assert not {span.name for span in spans} & set(WORKER)
    enqueue = one(spans, "enqueue")
    assert enqueue.attributes["camserve.job.duplicate"] is True
    first_enqueue = one(traced.collector.trace(first_id, "enqueue", *WORKER), "enqueue")
    assert enqueue.links == ((first_id, first_enqueue.id),)


def test_what_fails_is_found_by_its_answer(traced: Traced) -> None:
    trace_id, headers = new_trace()
    response = traced.ask(FAULTY, headers={**headers, "X-Request-ID": "mine"})
    document = response.json()
    assert response.status_code == 500, response.text
    job_id = document["explanation"].rpartition("/")[2]
    ids = {"request_id": "mine", "trace_id": trace_id, "job_id": job_id}
    (raised,) = traced.lines(error_id=document["error_id"], level="error")
    assert ids.items() <= raised.items()
    assert raised["process"] == "worker"
    assert raised["exception"][-1]["exc_type"] == "ArithmeticError"
    assert "locals" not in raised["exception"][-1]["frames"][-1]
    (failed,) = traced.lines(event="job failed", job_id=job_id)
    assert ids.items() <= failed.items()
    assert failed["error_id"] == document["error_id"]
    (access,) = traced.lines(event="request", job_id=job_id)
    assert ids.items() <= access.items()
    assert (access["process"], access["status"], access["level"]) == ("api", 500, "warning")
    assert (access["code"], access["error_id"]) == ("internal", document["error_id"])
    spans = traced.collector.trace(trace_id, *WORKER, "POST /v1/explanations")
    assert {span.name for span in spans if span.failed} >= {"process slow", "POST /v1/explanations"}
    assert "secret" not in str(spans)


def test_in_a_batch_the_guilty_one_is_named(traced: Traced) -> None:
    first = traced.slow_job()
    callers = {name: new_trace() for name in ("good", "bad", "ugly")}
    waiting = {
        name: traced.ask(
            FAULTY if name == "bad" else 0.0,
            headers={**headers, "X-Request-ID": name},
            wait=False,
        )
        for name, (_, headers) in callers.items()
    }
    traced.let_go()
    traced.succeeded(first, waiting["good"], waiting["ugly"])
    (failed,) = traced.lines(event="job failed", request_id="bad")
    (raised,) = traced.lines(event="unexpected error", error_id=failed["error_id"])
    assert raised["job_ids"] == [job_id_of(response) for response in waiting.values()]
    assert raised["job_id"] == failed["job_id"] == job_id_of(waiting["bad"])
    assert (raised["request_id"], raised["trace_id"]) == ("bad", callers["bad"][0])


def test_the_lines_of_one_explanation(traced: Traced) -> None:
    trace_id, headers = new_trace()
    response = traced.ask(headers={**headers, "X-Request-ID": "lines-1"})
    ids = {"request_id": "lines-1", "trace_id": trace_id, "job_id": job_id_of(response)}
    (access,) = traced.lines(event="request", request_id="lines-1")
    (done,) = traced.lines(event="job done", request_id="lines-1")
    lines = traced.lines(request_id="lines-1")
    assert all(ids.items() <= line.items() for line in lines)
    assert [(line["process"], line["event"]) for line in lines if line["process"] == "worker"] == [
        ("worker", "job begun"),
        ("worker", "job done"),
    ]
    assert access.keys() >= {"timestamp", "method", "path", "route", "status", "duration_ms"}
    assert done["worker"].split("-")[-2] == "cpu"


def test_the_trace_of_a_job_whose_worker_was_killed(traced: Traced) -> None:
    trace_id, headers = new_trace()
    response = traced.slow_job(headers)
    supervisor = psutil.Process(traced.service.processes["workers"].pid)
    (victim,) = [c for c in supervisor.children() if "workers.child" in " ".join(c.cmdline())]
    victim.kill()
    traced.let_go()
    traced.succeeded(response)
    spans = traced.collector.trace(trace_id, *WORKER)
    assert one(spans, "process slow").attributes["camserve.job.attempt"] == 2
    # the first worker told of the wait before it, if it came to that
    waits = [span.attributes["camserve.job.attempt"] for span in spans if span.name == "queue"]
    assert sorted(waits) in ([2], [1, 2])
    assert {span.parent for span in spans if span.name in WORKER[:2]} == {one(spans, "enqueue").id}
    (again,) = traced.lines(job_id=job_id_of(response), attempt=2, level="warning")
    assert again["event"].startswith("job begun again")
