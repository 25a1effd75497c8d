"""So many calls a minute: which are counted, for whom, and what the answers say."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.front import Front, problem, running_front
from tests.app.keys import add_key, guarded_front
from tests.app.requests import CountedBody
from tests.broker.test_rate_limiter import pass_time

pytestmark = pytest.mark.anyio

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


async def ask(front: Front, key: str | None = None, **options: Any) -> httpx.Response:
    return await front.post(headers=ASYNC | ({"X-API-Key": key} if key else {}), **options)


def left(response: httpx.Response) -> tuple[int, int, int]:
    """(limit, calls left, seconds until one more) of the headers."""
    policy = re.fullmatch(r'"default";q=(\d+);w=60', response.headers["RateLimit-Policy"])
    state = re.fullmatch(r'"default";r=(\d+);t=(\d+)', response.headers["RateLimit"])
    assert policy
    assert state
    return int(policy[1]), int(state[1]), int(state[2])


async def test_as_many_as_are_granted_and_one_more_after_the_wait(
    redis_url: str, path: Path
) -> None:
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path, rate_limit_per_minute=3) as front:
        for n in range(3):
            response = await ask(front, key)
            assert response.status_code == 202
            assert left(response) == (3, 2 - n, 20)
        response = await ask(front, key)
        document = problem(response, 429, "rate_limited")
        assert document["limit"] == 3
        assert 0 < document["retry_after_s"] <= 20
        wait_s = int(response.headers["Retry-After"])
        assert wait_s == math.ceil(document["retry_after_s"])
        assert left(response) == (3, 0, wait_s)
        assert f"try again in {wait_s} s" in document["detail"]
        await pass_time(front.redis, "someone", wait_s)
        assert (await ask(front, key)).status_code == 202
        problem(await ask(front, key), 429, "rate_limited")


async def test_what_makes_no_work_is_not_counted(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone", rate=2)
    async with guarded_front(redis_url, path, key) as front:
        done, _, _ = await front.done(front.post())
        href = done.headers["Location"]
        overlay = done.json()["results"][0]["overlay"]["href"]
        for where in (href, overlay, "/v1/models", "/v1/models/toy", "/livez", "/docs"):
            for method in ("GET", "HEAD"):
                response = await front.client.request(method, where)
                assert response.status_code == 200
                assert "RateLimit" not in response.headers
        assert (await front.client.delete(href)).status_code == 200
        listed = await front.client.post("/v2/repository/index", json={})
        assert listed.status_code == 200
        assert "RateLimit" not in listed.headers
        assert left(await ask(front))[1] == 0


async def test_what_is_refused_is_counted_and_strangers_are_not(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone", rate=3)
    async with guarded_front(redis_url, path) as front:
        for wrong in (None, "camserve_0"):
            assert (await ask(front, wrong)).status_code == 401
        assert not await front.redis.keys("cam:rate:*")
        response = await ask(front, key, params={"class_index": 99})
        assert response.status_code == 422
        assert left(response) == (3, 2, 20)
        response = await ask(front, key, params={"model": "none"})
        assert response.status_code == 404
        assert left(response) == (3, 1, 20)


async def test_a_call_that_is_one_too_many_is_refused_before_its_body_is_read(
    redis_url: str, path: Path
) -> None:
    key = add_key(path, "someone", rate=1)
    async with guarded_front(redis_url, path, key) as front:
        await ask(front)
        body = CountedBody()
        response = await front.client.post("/v1/explanations", content=body)
        problem(response, 429, "rate_limited")
        assert body.is_unread


async def test_all_front_ends_count_together_and_each_key_by_itself(
    redis_url: str, path: Path
) -> None:
    a, b = add_key(path, "a"), add_key(path, "b")
    settings = {"rate_limit_per_minute": 2}
    async with (
        guarded_front(redis_url, path, **settings) as one,
        guarded_front(redis_url, path, **settings) as other,
    ):
        assert [left(await ask(front, a))[1] for front in (one, other)] == [1, 0]
        for front in (one, other):
            problem(await ask(front, a), 429, "rate_limited")
        assert left(await ask(other, b))[1] == 1


@pytest.mark.parametrize(("own", "default", "limit"), [(5, 2, 5), (2, 5, 2), (2, None, 2)])
async def test_a_key_may_have_its_own_limit(
    redis_url: str, path: Path, own: int, default: int | None, limit: int
) -> None:
    key = add_key(path, "someone", rate=own)
    async with guarded_front(redis_url, path, rate_limit_per_minute=default) as front:
        assert left(await ask(front, key))[:2] == (limit, limit - 1)


async def test_without_a_limit_nothing_is_counted(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path) as front:
        response = await ask(front, key)
        assert response.status_code == 202
        assert not {"RateLimit", "RateLimit-Policy"} & set(response.headers)
        assert not await front.redis.keys("cam:rate:*")


async def test_without_keys_all_callers_share_one(redis_url: str) -> None:
    async with running_front(redis_url, rate_limit_per_minute=1) as front:
        await front.publish()
        assert left(await ask(front)) == (1, 0, 60)
        problem(await ask(front, "whoever"), 429, "rate_limited")


async def test_without_redis_nobody_gets_past_the_key(path: Path) -> None:
    key = add_key(path, "someone")
    nowhere = "redis://127.0.0.1:1"
    async with running_front(nowhere, api_keys_file=path, rate_limit_per_minute=1) as front:
        problem(await ask(front), 401, "api_key_missing")
        problem(await ask(front, "camserve_0"), 401, "api_key_unknown")
        response = await ask(front, key)
        problem(response, 503, "queue_unavailable")
        assert int(response.headers["Retry-After"]) > 0
