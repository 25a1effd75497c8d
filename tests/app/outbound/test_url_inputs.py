"""Inputs by URL through the whole front end."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.app.front import Front, png, problem, running_front
from tests.app.outbound.web_server import WebServer, answer, redirect

pytestmark = pytest.mark.anyio
PATH = "/v1/explanations"


@asynccontextmanager
async def fetching(redis_url: str, web: WebServer, **settings: Any) -> AsyncIterator[Front]:
    """A front end that may fetch from `web`, which has pictures."""
    web.pages |= {
        "/cat.png": answer(png()),
        "/other.png?v=2": answer(png(20, 20)),
        "/blue%20cat.png": answer(png(color=(0, 0, 200))),
    }
    async with running_front(redis_url, fetch_hosts=(web.entry,), **settings) as front:
        await front.publish()
        yield front


def image(url: str) -> dict[str, Any]:
    return {"image": {"url": url}}


async def ask(front: Front, *urls: str, **members: Any) -> Any:
    document = {"model": "toy", "inputs": [image(url) for url in urls], **members}
    return await front.client.post(PATH, json=document)


async def test_a_url_is_the_picture_that_is_there(redis_url: str, web: WebServer) -> None:
    async with fetching(redis_url, web) as front:
        by_url, _, tensors = await front.done(ask(front, web.url("/cat.png")))
        _, _, uploaded = await front.done(front.post())
    assert by_url.status_code == 200
    assert by_url.json()["results"][0]["input_name"] == "cat.png"
    assert np.array_equal(tensors["input.0"], uploaded["input.0"])


async def test_other_calls_take_urls_too(redis_url: str, web: WebServer) -> None:
    async with fetching(redis_url, web) as front:
        calls: dict[str, dict[str, Any]] = {
            "/v1/models/toy/predict": {"inputs": [image(web.url("/cat.png"))]},
            "/v1/models/toy:explain": {"instances": [image(web.url("/cat.png"))]},
        }
        for path, document in calls.items():
            asked = asyncio.create_task(front.client.post(path, json=document))
            begun = await front.begin()
            assert set(load(begun.payload)) == {"input.0"}
            asked.cancel()
            await asyncio.wait([asked])
    assert [one.line for one in web.asked] == ["GET /cat.png HTTP/1.1"] * 2


async def test_urls_in_forms_come_behind_files(redis_url: str, web: WebServer) -> None:
    async with fetching(redis_url, web) as front:
        asked = front.client.post(
            PATH,
            data={"model": "toy", "url": [web.url("/cat.png"), web.url("/other.png?v=2")]},
            files=[("input", ("sent.png", png(), "image/png"))],
        )
        response, job, _ = await front.done(asked)
    assert response.status_code == 200
    assert [one.name for one in job.inputs] == ["sent.png", "cat.png", "other.png"]


async def test_urls_in_a_query(redis_url: str, web: WebServer) -> None:
    async with fetching(redis_url, web) as front:
        query = {"model": "toy", "url": [web.url("/cat.png"), web.url("/blue%20cat.png")]}
        response, job, _ = await front.done(front.client.post(PATH, params=query))
        assert response.status_code == 200
        assert [one.name for one in job.inputs] == ["cat.png", "blue cat.png"]
        response, job, _ = await front.done(front.post(params={"url": web.url("/cat.png")}))
        assert [one.name for one in job.inputs] == [None, "cat.png"]
        problem(await front.client.post(PATH, params={"model": "toy"}), 400, "empty_body")
        json_type = {"Content-Type": "application/json"}
        problem(await front.client.post(PATH, params=query, headers=json_type), 400, "empty_body")


async def test_urls_in_a_form_and_in_its_document(redis_url: str, web: WebServer) -> None:
    async with fetching(redis_url, web) as front:
        document = json.dumps({"model": "toy", "inputs": [image(web.url("/cat.png"))]})
        response, _, _ = await front.done(
            front.client.post(PATH, files={"request": (None, document)})
        )
        assert response.status_code == 200
        fields = {"request": (None, document), "url": (None, web.url("/cat.png"))}
        refused = problem(await front.client.post(PATH, files=fields), 422, "invalid_request")
    assert "inputs is given twice" in refused["detail"]


async def test_arrays_by_url(redis_url: str, web: WebServer) -> None:
    file = io.BytesIO()
    array = np.linspace(0, 1, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    np.save(file, array)
    web.pages |= {"/x.npy": answer(file.getvalue()), "/x.npz": answer(b"PK\x03\x04" + bytes(99))}
    async with fetching(redis_url, web) as front:
        _, _, tensors = await front.done(ask(front, web.url("/x.npy"), format="SSC"))
        assert np.array_equal(tensors["input.0"], array.transpose(2, 0, 1))
        unused = problem(
            await ask(front, web.url("/cat.png"), format="SSC"), 422, "invalid_request"
        )
        assert unused["field"] == "format"
        archive = problem(
            await ask(front, web.url("/cat.png"), web.url("/x.npz")), 415, "unreadable_image"
        )
        assert archive["input"] == 1
        assert "not .npz" in archive["detail"]


async def test_off_by_default(front: Front) -> None:
    refused = problem(await ask(front, "https://images.example.com/x.png"), 422, "url_not_allowed")
    assert refused["rule"] == "off"
    assert refused["field"] == "inputs.0.image.url"
    assert "CAMSERVE_FETCH_HOSTS" in refused["detail"]


async def test_a_refused_url_is_named_and_nothing_is_fetched(
    redis_url: str, web: WebServer
) -> None:
    async with fetching(redis_url, web, fetch_connections=1) as front:
        refused = problem(
            await ask(front, web.url("/cat.png"), "http://169.254.169.254/"), 422, "url_not_allowed"
        )
        assert (refused["rule"], refused["input"]) == ("host", 1)
        assert refused["field"] == "inputs.1.image.url"
        await ask(front, web.url("/cat.png"), targets=[{"class_index": 99}])
        await ask(front, web.url("/cat.png"), model="unknown")
    assert web.connections == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("cat.jpg", "write https://"),
        ("file:///etc/passwd", "only https and http"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://a@b/", "user name or password"),
        ("ftp://a.example/cat.jpg", "only https and http"),
    ],
)
async def test_what_is_no_url_says_so(front: Front, url: str, words: str) -> None:
    refused = problem(await ask(front, url), 422, "invalid_request")
    assert refused["field"] == "inputs.0.image.url"
    assert words in refused["detail"]


async def test_both_or_neither(front: Front) -> None:
    both = {"image": {"url": "https://a.example/", "base64": "AAAA"}}
    for wrong in (both, {"image": {}}, {"image": {"url": None}}):
        document = {"model": "toy", "inputs": [wrong]}
        refused = problem(await front.client.post(PATH, json=document), 422, "invalid_request")
        assert "exactly one of base64, url" in refused["detail"]


async def test_what_cannot_be_fetched_says_why(redis_url: str, web: WebServer) -> None:
    web.pages["/big"] = answer(bytes(20_001))
    async with fetching(redis_url, web, max_body_mb=0.02) as front:
        missing = problem(
            await ask(front, web.url("/cat.png"), web.url("/none.png")), 422, "url_unreachable"
        )
        assert (missing["reason"], missing["answered"], missing["input"]) == ("status", 404, 1)
        large = problem(await ask(front, web.url("/big")), 422, "url_unreachable")
        assert (large["reason"], large["limit"]) == ("too_large", 20_000)


async def test_what_is_fetched_is_judged_by_its_content(redis_url: str, web: WebServer) -> None:
    web.pages |= {
        "/page.jpg": answer(b"<html>not found</html>", content_type="image/jpeg"),
        "/picture": answer(png(), content_type="text/html"),
    }
    async with fetching(redis_url, web) as front:
        problem(await ask(front, web.url("/page.jpg")), 415, "unreadable_image")
        response, _, _ = await front.done(ask(front, web.url("/picture")))
    assert response.status_code == 200


async def test_the_deadline_includes_the_fetch(redis_url: str, web: WebServer) -> None:
    async def silent(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    web.pages["/"] = silent
    async with fetching(redis_url, web) as front:
        problem(await ask(front, web.url("/"), deadline_ms=100), 504, "deadline_exceeded")


async def test_a_repeated_key_means_the_same_content(redis_url: str, web: WebServer) -> None:
    """Wherever it came from: a signed URL differs each time."""
    web.pages["/signed/2.png"] = redirect("/cat.png")
    async with fetching(redis_url, web) as front:

        async def keyed(path: str) -> Any:
            document = {"model": "toy", "inputs": [image(web.url(path))]}
            headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
            return await front.client.post(PATH, json=document, headers=headers)

        first, again = await keyed("/cat.png"), await keyed("/signed/2.png")
        assert first.status_code == again.status_code == 202
        assert first.json()["id"] == again.json()["id"]
        problem(await keyed("/blue%20cat.png"), 409, "idempotency_conflict")


async def test_the_service_answers_others_while_it_fetches(redis_url: str, web: WebServer) -> None:
    begun, leave = asyncio.Event(), asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        begun.set()
        await leave.wait()
        writer.write(answer(png()))
        await writer.drain()

    web.pages["/held.png"] = held
    async with fetching(redis_url, web) as front:
        asked = asyncio.create_task(ask(front, web.url("/held.png")))
        await begun.wait()
        assert (await front.client.get("/livez")).status_code == 200
        await front.done(front.post())
        leave.set()
        await front.work()
        assert (await asked).status_code == 200
