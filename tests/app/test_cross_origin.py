"""CORS: pages of the origins that are named, and of no other."""

from __future__ import annotations

from typing import Any

import pytest

from app.catalog import Catalog
from camserve.settings import Settings
from tests.app.front import Front, running_front

pytestmark = pytest.mark.anyio

PAGE = "https://app.example.com"


def preflight(origin: str, method: str = "POST", headers: str = "prefer") -> dict[str, Any]:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return {"headers": {"Origin": origin, **asked}}


async def test_nobody_is_named(front: Front) -> None:
    response = await front.client.get("/livez", headers={"Origin": PAGE})
    assert "access-control-allow-origin" not in response.headers
    assert (await front.client.options("/v1/explanations", **preflight(PAGE))).status_code == 405


async def test_a_page_that_is_named_may_ask_and_read(redis_url: str) -> None:
    origins = (PAGE, "http://localhost:3000")
    async with running_front(redis_url, cors_origins=origins) as front:
        await front.publish()
        for origin in origins:
            asked = (
                "authorization, cache-control, content-type, idempotency-key, last-event-id, prefer"
            )
            allowed = await front.client.options(
                "/v1/explanations", **preflight(origin, headers=asked)
            )
            assert allowed.status_code == 200
            assert allowed.headers["Access-Control-Allow-Origin"] == origin
            done, _, _ = await front.done(front.post(headers={"Origin": origin}))
            assert done.headers["Access-Control-Allow-Origin"] == origin
            assert "Origin" in done.headers["Vary"]
            exposed = done.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"Location", "Link", "ETag", "Server-Timing", "X-Request-ID"} <= set(exposed)
            assert "access-control-allow-credentials" not in done.headers
        refusal = await front.client.get("/v1/nothing", headers={"Origin": PAGE})
        assert refusal.status_code == 404
        assert refusal.headers["Access-Control-Allow-Origin"] == PAGE


async def test_another_page_may_not(redis_url: str) -> None:
    async with running_front(redis_url, cors_origins=(PAGE,)) as front:
        for origin in ("https://evil.example", f"{PAGE}.evil.example", "http://app.example.com"):
            refused = await front.client.options("/v1/explanations", **preflight(origin))
            assert refused.status_code == 400
            answer = await front.client.get("/livez", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
        method = await front.client.options("/v1/explanations", **preflight(PAGE, "PATCH"))
        assert method.status_code == 400


async def test_any_page(redis_url: str) -> None:
    async with running_front(redis_url, cors_origins=("*",)) as front:
        response = await front.client.get("/livez", headers={"Origin": "https://any.example"})
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_an_error_that_nobody_expected_can_be_read_too(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(Catalog, "workers", broken)
    async with running_front(redis_url, cors_origins=(PAGE,)) as front:
        response = await front.client.get("/v1/models", headers={"Origin": PAGE})
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert response.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "ftp://x"]
)
def test_what_is_no_origin_is_refused_at_start(
    origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMSERVE_CORS_ORIGINS", f"{PAGE}, {origin}")
    with pytest.raises(ValueError, match=r"CAMSERVE_CORS_ORIGINS.* is no origin"):
        Settings.from_environment()
