"""Every error is a problem: its status, its page, its remedy, and never a traceback."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from app.catalog import Catalog
from app.problem_texts import ADVICE, TITLE
from app.problems import STATUS, problem_response
from camserve.errors import ErrorCode, Failure
from tests.app.front import Front, png, problem

pytestmark = pytest.mark.anyio


def test_the_tables_cover_every_code() -> None:
    assert set(STATUS) == set(TITLE) == set(ADVICE) == set(ErrorCode)
    assert all(400 <= status < 600 for status in STATUS.values())
    assert len(set(TITLE.values())) == len(TITLE)


@pytest.mark.parametrize("code", ErrorCode)
async def test_each_type_leads_to_a_page(front: Front, code: ErrorCode) -> None:
    response = problem_response(Failure(code, "detail", retry_after_s=1.2, title="not mine"))
    assert response.status_code == STATUS[code]
    assert response.headers["retry-after"] == "2"
    page = await front.client.get(f"/problems/{code}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain")
    assert TITLE[code] in page.text
    assert ADVICE[code] in page.text
    assert str(STATUS[code]) in page.text


async def test_an_unknown_type_is_404(front: Front) -> None:
    problem(await front.client.get("/problems/nonsense"), 404, "not_found")


async def test_an_unknown_address_names_the_near_ones(front: Front) -> None:
    document = problem(await front.client.get("/v1/explanation"), 404, "not_found")
    assert "/v1/explanations" in document["near"]
    assert document["instance"] == "/v1/explanation"


async def test_a_wrong_method_is_405_and_says_which_are_right(front: Front) -> None:
    response = await front.client.put("/v1/explanations")
    document = problem(response, 405, "method_not_allowed")
    assert "PUT" in document["detail"]
    assert response.headers["Allow"] == "GET, HEAD, POST"
    response = await front.client.put("/v1/models")
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/livez", "/v1/models", "/v1/models/toy", "/v1/models/none", "/problems/internal"]
)
async def test_head_is_get_without_content(front: Front, path: str) -> None:
    get, head = await front.client.get(path), await front.client.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers.get(name) == get.headers.get(name)
    assert head.headers["X-Request-ID"]


async def test_a_misspelt_query_parameter_of_a_view(front: Front) -> None:
    url = "/v1/explanations/x/results/0/overlay"
    document = problem(
        await front.client.get(url, params={"colour_map": "jet"}), 422, "invalid_request"
    )
    assert document["detail"] == "colour_map: unknown field 'colour_map'; did you mean 'colormap'?"
    document = problem(await front.client.get(url, params={"size": "big"}), 422, "invalid_request")
    assert "`640x480`: width x height" in document["detail"]


async def test_a_header_that_fastapi_refuses_is_a_problem_too(front: Front) -> None:
    response = await front.client.post(
        "/v1/explanations", content=b"x", headers={"Idempotency-Key": "k" * 300}
    )
    document = problem(response, 422, "invalid_request")
    assert document["field"] == "Idempotency-Key"


async def test_two_idempotency_keys_are_none(front: Front) -> None:
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "image/png")]
    response = await front.client.post(
        "/v1/explanations", params={"model": "toy"}, content=png(), headers=keys
    )
    document = problem(response, 422, "invalid_request")
    assert document["field"] == "Idempotency-Key"


async def test_what_nobody_expected_is_500_with_an_id_for_the_log(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **_options: object) -> None:
        raise RuntimeError("secret path /srv/keys")

    monkeypatch.setattr(Catalog, "cards", broken)
    monkeypatch.setattr(Catalog, "workers", broken)
    with caplog.at_level(logging.ERROR, "app.unexpected"):
        response = await front.client.get("/v1/models", headers={"X-Request-ID": "mine"})
    document = problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert document["error_id"] in document["detail"]
    assert document["request_id"] == response.headers["X-Request-ID"] == "mine"
    (record,) = [r for r in caplog.records if r.name == "app.unexpected"]
    assert document["error_id"] == record.error_id  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_a_client_that_leaves_is_no_error_of_ours(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(*_: Any) -> None:
        raise ClientDisconnect

    monkeypatch.setattr("app.routers.explanations.read_request", gone)
    response = await front.client.post("/v1/explanations", content=b"x")
    problem(response, 400, "malformed_request")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3/+=", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)],
)
async def test_request_ids(front: Front, given: str, kept: bool) -> None:
    response = await front.client.get("/livez", headers={"X-Request-ID": given})
    answered = response.headers["X-Request-ID"]
    assert (answered == given) is kept
    assert answered


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"01-{TRACE}-b7ad6b7169203331-01-later-versions-add", True),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}", False),
    ],
)
async def test_a_request_of_a_trace_is_known_by_it(
    front: Front, traceparent: str, kept: bool
) -> None:
    response = await front.client.get("/livez", headers={"traceparent": traceparent})
    assert (response.headers["X-Request-ID"] == TRACE) is kept
    both = {"traceparent": traceparent, "X-Request-ID": "mine"}
    response = await front.client.get("/livez", headers=both)
    assert response.headers["X-Request-ID"] == "mine"


async def test_the_root_leads_to_the_documentation(front: Front) -> None:
    response = await front.client.get("/", headers={"Accept": "text/html"})
    assert response.headers["Location"] == "docs"
    assert (await front.client.get("/docs")).status_code == 200
