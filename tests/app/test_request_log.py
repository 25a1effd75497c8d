"""The line of each request, and what of it goes on to the job."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from app.request_log import RequestLog
from tests.app.front import Front
from tests.app.keys import add_key, guarded_front

pytestmark = pytest.mark.anyio
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "app.request_log")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "app.request_log"]


async def test_a_request_is_one_line(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    response, _, _ = await front.done(front.post(params={"class_index": 1}))
    (line,) = lines(caplog)
    assert line["msg"] == "request"
    assert line["levelname"] == "INFO"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/explanations", 200)
    assert line["route"] == "/v1/explanations"
    assert line["job_id"] == response.headers["Location"].rpartition("/")[2]
    assert line["duration_ms"] >= 0
    assert "caller" not in line


async def test_queries_stay_out_of_it(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    await front.client.get("/v1/explanations/x/results/0/map?signature=secret")
    (line,) = lines(caplog)
    assert line["path"] == "/v1/explanations/x/results/0/map"
    assert "secret" not in str(line)


async def test_who_calls(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = add_key(tmp_path / "keys", "somebody")
    async with guarded_front(redis_url, tmp_path / "keys") as front:
        await front.client.get("/v1/models", headers={"X-API-Key": secret})
        await front.client.get("/v1/models", headers={"X-API-Key": "wrong"})
    known, unknown = lines(caplog)
    assert (known["caller"], known["status"]) == ("somebody", 200)
    assert ("caller" in unknown, unknown["status"]) == (False, 401)
    assert secret not in str(known)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"])
async def test_probes_are_for_those_who_debug(
    front: Front, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    await front.client.get(path)
    assert [line["levelname"] for line in lines(caplog)] == ["DEBUG"]


async def test_what_no_route_takes(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    await front.client.request("X" * 9000, "/no%0asuch%1b[31m/place/" + "x" * 9000)
    (line,) = lines(caplog)
    assert (line["status"], line["code"]) == (404, "not_found")
    assert "route" not in line
    assert line["path"].startswith("/no\nsuch\x1b[31m/place")  # for the formats to escape
    assert len(line["path"]) < 300
    assert len(line["method"]) < 300


async def test_who_was_cut_off_has_no_status(caplog: pytest.LogCaptureFixture) -> None:
    async def breaking(*_: object) -> None:
        raise RuntimeError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}}
    with pytest.raises(RuntimeError):
        await RequestLog(breaking)(scope, None, None)  # type: ignore[arg-type]
    (line,) = lines(caplog)
    assert "status" not in line
    assert line["levelname"] == "WARNING"


async def test_without_an_sdk_the_trace_of_the_caller_goes_to_the_job_as_it_came(
    front: Front,
) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=mark"}
    _, job, _ = await front.done(front.post(params={"class_index": 1}, headers=headers))
    assert (job.traceparent, job.tracestate) == (TRACEPARENT, "vendor=mark")
    _, job, _ = await front.done(front.post(params={"class_index": 2}))
    assert (job.traceparent, job.tracestate) == (None, None)


async def test_a_trace_is_no_part_of_what_an_idempotency_key_means(front: Front) -> None:
    key = {"Idempotency-Key": "k"}
    first, _, _ = await front.done(
        front.post(params={"class_index": 1}, headers={**key, "traceparent": TRACEPARENT})
    )
    again = await front.post(params={"class_index": 1}, headers=key)
    assert again.status_code == 200
    assert again.headers["Location"] == first.headers["Location"]
