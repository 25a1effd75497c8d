"""The files of the interactive documentation: all from here, cached well, and under a policy."""

from __future__ import annotations

import gc
import gzip
import json
import re
import threading
import tracemalloc
from importlib import metadata, resources
from typing import Any

import httpx
import pytest

from app import documentation
from app.docs_files import openapi_file
from app.openapi import PATH
from tests.app.front import Front, problem

pytestmark = pytest.mark.anyio

LINK = re.compile(r'(?:href|src)="([^"]+)"')
PLAIN = {"Accept-Encoding": "identity"}


async def parts(front: Front) -> dict[str, httpx.Response]:
    """What the page is made of, by the last name of its address."""
    page = (await front.client.get("/docs")).text
    return {
        link.rpartition("/")[2]: await front.client.get(f"/{link}", headers=PLAIN)
        for link in LINK.findall(page)
    }


async def test_no_page_refers_to_another_host(front: Front) -> None:
    page = await front.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    found = await parts(front)
    assert set(found) == {
        *("favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"),
        *("docs.css", "docs.js", "openapi.json"),
    }
    for text in (page.text, found["docs.js"].text, found["docs.css"].text):
        assert not re.search(r"https?:|[\"'(]//", text)
    inside = re.findall(r"url\(\"?([^)]{0,20})", found["swagger-ui.css"].text)
    assert inside
    assert all(address.startswith("data:") for address in inside)
    assert "@import" not in found["swagger-ui.css"].text
    assert 'validatorUrl: "none"' in found["docs.js"].text


async def test_the_policy_lets_the_page_ask_its_own_host_alone(front: Front) -> None:
    headers = (await front.client.get("/docs")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert "unsafe-inline" not in policy["script-src"]


async def test_other_pages_of_the_framework_are_not_there(front: Front) -> None:
    for address in ("/redoc", "/docs/oauth2-redirect"):
        problem(await front.client.get(address), 404, "not_found")
    home = await front.client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (home.status_code, home.headers["location"]) == (307, "docs")


async def test_files_are_swagger_uis_own(front: Front) -> None:
    found = await parts(front)
    package = resources.files("fastapi_swagger.resources")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert found[name].content == (package / name).read_bytes()
        assert found[name].headers["x-content-type-options"] == "nosniff"
    version = re.search(r'PACKAGE_VERSION:"([\d.]+)"', found["swagger-ui-bundle.js"].text)
    assert version is not None
    assert version[1].startswith("5."), metadata.version("fastapi-swagger")


async def test_a_file_is_asked_for_once_and_the_page_whenever_it_changed(front: Front) -> None:
    links = [f"/{link}" for link in LINK.findall((await front.client.get("/docs")).text)]
    for address in ("/docs", *(link for link in links if link.startswith("/docs/"))):
        first = await front.client.get(address)
        caching = first.headers["cache-control"]
        assert ("immutable" in caching) == (address != "/docs"), address
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = await front.client.get(address, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b""), address
            assert again.headers["etag"] == tag
        changed = await front.client.get(address, headers={"If-None-Match": '"other"'})
        assert changed.status_code == 200
    stale = re.sub(r"/[0-9a-f]{16}/", "/0123456789abcdef/", links[0])
    problem(await front.client.get(stale), 404, "not_found")


async def test_what_is_large_is_compressed_for_whoever_can_read_it(front: Front) -> None:
    address = next(
        link for link in LINK.findall((await front.client.get("/docs")).text) if "bundle" in link
    )
    plain = await front.client.get(f"/{address}", headers=PLAIN)
    assert "content-encoding" not in plain.headers
    async with front.client.stream(
        "GET", f"/{address}", headers={"Accept-Encoding": "gzip, br"}
    ) as packed:
        raw = b"".join([chunk async for chunk in packed.aiter_raw()])
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 3

    assert packed.headers["etag"] != plain.headers["etag"]
    for coding, first in (("gzip", packed), ("identity", plain)):
        for known in (packed, plain):
            mark = {"If-None-Match": known.headers["etag"], "Accept-Encoding": coding}
            again = await front.client.head(f"/{address}", headers=mark)
            assert again.status_code == (304 if known is first else 200)
    refused = await front.client.head(f"/{address}", headers={"Accept-Encoding": "br, gzip;q=0"})
    assert "content-encoding" not in refused.headers


async def test_the_openapi_document_is_made_beside_the_event_loop_and_sent_once(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    real = documentation.get_openapi

    def watched(**options: Any) -> Any:
        made.append(threading.current_thread() is threading.main_thread())
        return real(**options)

    monkeypatch.setattr(documentation, "get_openapi", watched)
    problem(await front.client.get("/v1/nothing"), 404, "not_found")  # which names what is near
    first = await front.client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert made == [False]
    assert first.headers["content-type"] == "application/json"
    assert (first.headers["cache-control"], first.headers["content-encoding"]) == (
        "no-cache",
        "gzip",
    )
    assert first.json() == json.loads(PATH.read_text("utf-8"))
    mark = {"If-None-Match": first.headers["etag"], "Accept-Encoding": "gzip"}
    again = await front.client.get("/openapi.json", headers=mark)
    assert (again.status_code, again.content) == (304, b"")


def test_behind_a_proxys_prefix_the_openapi_document_names_it() -> None:
    placed = openapi_file({"openapi": "3.1.0"}, "/camserve")
    assert json.loads(placed.content)["servers"] == [{"url": "/camserve"}]
    assert placed.etag != openapi_file({"openapi": "3.1.0"}, "").etag


async def test_addresses_that_nobody_made_leave_nothing_behind(front: Front) -> None:
    """They are open to strangers, who can think of any number of them."""
    await front.client.get("/docs")
    tracemalloc.start()
    try:
        for turn in range(320):
            if turn == 160:  # the standard library remembers the last 128 addresses
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
            name = f"{turn}{'x' * 10_000}"
            problem(await front.client.get(f"/docs/{name}/docs.js"), 404, "not_found")
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()
