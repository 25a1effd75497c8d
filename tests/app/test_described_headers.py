"""Headers of answers: what is sent is described, and what is described is sent."""

from __future__ import annotations

import httpx
import pytest

from tests.app.front import png, running_front
from tests.app.test_openapi import DOCUMENT

pytestmark = pytest.mark.anyio

# of every answer on the web, or of the media type
EVERYDAY = {"content-type", "content-length", "vary", "x-accel-buffering"}
OPTIONAL = {
    "link",  # on all pages but the last
    "content-disposition",  # of files alone
    "preference-applied",  # if there was one
}


def check(method: str, path: str, response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    described = DOCUMENT["paths"][path][method]["responses"][str(status)].get("headers", {})
    names = {name.lower() for name in described}
    sent = set(response.headers) - EVERYDAY
    assert sent <= names, f"{method} {path} {status}: not described"
    assert names - sent <= OPTIONAL, f"{method} {path} {status}: not sent"


async def test_headers_that_are_sent_are_those_that_are_described(redis_url: str) -> None:
    async with running_front(redis_url, rate_limit_per_minute=100, result_cache_mb=1) as front:
        await front.publish()
        create, one = "/v1/explanations", "/v1/explanations/{explanation_id}"
        accepted = await front.post(headers={"Prefer": "respond-async"})
        check("post", create, accepted, 202)
        href = accepted.headers["Location"]
        view = f"{one}/results/{{number}}"
        check("get", f"{view}/map", await front.client.get(f"{href}/results/0/map"), 409)
        await front.work()
        for form in ("json", "npy", "zip"):
            afresh = {"Cache-Control": "no-cache"}
            done, _, _ = await front.done(front.post(params={"as": form}, headers=afresh))
            assert ("content-disposition" in done.headers) == (form != "json")
            if form == "json":
                check("post", create, done, 200)
            got = await front.client.get(href, params={"as": form})
            check("get", one, got, 200)
            mark = {"If-None-Match": got.headers["ETag"]}
            again = await front.client.get(href, params={"as": form}, headers=mark)
            assert again.status_code == 304
        for kind in ("map", "overlay"):
            got = await front.client.get(f"{href}/results/0/{kind}")
            check("get", f"{view}/{kind}", got, 200)
        check("get", create, await front.client.get(create), 200)
        check("delete", one, await front.client.delete(href), 200)
        for path in ("/v1/models", "/v1/models/{model}", "/v1/models/{model}/layers"):
            check("get", path, await front.client.get(path.format(model="toy")), 200)
        check("get", "/v1/models/{model}", await front.client.get("/v1/models/none"), 404)
        response = await front.client.post("/v1/models/toy/predict", content=b"")
        check("post", "/v1/models/{model}/predict", response, 400)


async def test_415_says_what_would_be_read(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        await front.publish()
        kind = await front.post(headers={"Content-Type": "image/svg+xml"})
        assert kind.status_code == 415
        assert kind.headers["Accept"].split(", ") == kind.json()["supported"]
        packed = await front.post(png(), headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415
        assert packed.headers["Accept-Encoding"] == "identity"
        assert "Accept" not in packed.headers
