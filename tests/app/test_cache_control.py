"""`Cache-Control` of a request, by the letter of RFC 9111, on every way to a computation."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable

import httpx
import numpy as np
import pytest

from app.cache_control import parse_cache_control
from camserve.contracts.jobs import Job
from tests.app.front import Front, png, prediction_of, result_of

HEADERS = [
    ([], "use"),
    ([""], "use"),
    (["no-cache"], "refresh"),
    (["No-Cache"], "refresh"),
    ([" no-cache\t"], "refresh"),
    (["no-store"], "bypass"),
    (["no-store, no-cache"], "bypass"),
    (["no-cache", "no-store"], "bypass"),
    (["max-age=0, no-cache"], "refresh"),
    (['extension="no-store, no-cache", no-cache'], "refresh"),
    # tolerated
    (["max-age=0"], "use"),
    (["min-fresh=10, max-stale, no-transform, only-if-cached"], "use"),
    (["private"], "use"),
    (['extension="no-store"'], "use"),
    # malformed
    (["no-cache no-store"], "use"),
    (["no-cache;no-store"], "use"),
    (["no cache"], "use"),
    (["no-cache="], "use"),
    (["=no-cache"], "use"),
    (['"no-cache"'], "use"),
    (['no-cache="'], "use"),
    ([',,"'], "use"),
    (["no-cache, =, no store"], "refresh"),
    (["no_cache"], "use"),
]


@pytest.mark.parametrize(("headers", "caching"), HEADERS)
def test_what_is_asked_of_caches(headers: list[str], caching: str) -> None:
    assert parse_cache_control(headers) == caching


Ask = Callable[[Front], Awaitable[httpx.Response]]

NO_CACHE = {"Cache-Control": "no-cache"}
BASE64 = base64.b64encode(png()).decode()
PIXEL = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [BASE64]}


def form(front: Front) -> Awaitable[httpx.Response]:
    files = {"input": ("a.png", png())}
    return front.client.post(
        "/v1/explanations", data={"model": "toy"}, files=files, headers=NO_CACHE
    )


def document(front: Front) -> Awaitable[httpx.Response]:
    asked = {"model": "toy", "inputs": [{"image": {"base64": BASE64}}]}
    return front.client.post("/v1/explanations", json=asked, headers=NO_CACHE)


def raw(front: Front) -> Awaitable[httpx.Response]:
    return front.post(headers=NO_CACHE)


def prediction(front: Front) -> Awaitable[httpx.Response]:
    return front.client.post(
        "/v1/models/toy/predict", content=png(), headers=NO_CACHE | {"Content-Type": "image/png"}
    )


def kserve(verb: str) -> Ask:
    def ask(front: Front) -> Awaitable[httpx.Response]:
        body = {"instances": [{"b64": BASE64}]}
        return front.client.post(f"/v1/models/toy:{verb}", json=body, headers=NO_CACHE)

    return ask


def open_inference(verb: str) -> Ask:
    def ask(front: Front) -> Awaitable[httpx.Response]:
        body = {"inputs": [PIXEL]}
        return front.client.post(f"/v2/models/toy/{verb}", json=body, headers=NO_CACHE)

    return ask


@pytest.mark.anyio
@pytest.mark.parametrize(
    "ask",
    [
        *(form, document, raw, prediction, kserve("explain"), kserve("predict")),
        *(open_inference("explain"), open_inference("infer")),
    ],
)
async def test_the_worker_is_told(front: Front, ask: Ask) -> None:
    await front.publish()

    async def work() -> Job:
        begun = await front.begin()
        job = Job.model_validate_json(begun.document)
        result = prediction_of(job, [np.arange(5)]) if job.kind == "predict" else result_of(job)
        assert await front.worker.finish(begun, result)
        return job

    answer, job = await asyncio.gather(ask(front), work())
    assert answer.status_code == 200, answer.text
    assert job.caching == "refresh"
    assert not job.may_read_caches
    assert job.may_fill_caches


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "reads", "fills"), [("", True, True), ("no-store", False, False)]
)
async def test_what_a_worker_may_do(front: Front, asked: str, reads: bool, fills: bool) -> None:
    await front.publish()
    _, job, _ = await front.done(front.post(headers={"Cache-Control": asked}))
    assert (job.may_read_caches, job.may_fill_caches) == (reads, fills)


@pytest.mark.anyio
async def test_a_retry_that_asks_otherwise_is_the_same_request(front: Front) -> None:
    await front.publish()
    key = {"Idempotency-Key": "k"}
    first, _, _ = await front.done(front.post(headers=key))
    again = await front.post(headers=key | NO_CACHE)
    assert again.status_code == 200
    assert again.json()["id"] == first.json()["id"]
