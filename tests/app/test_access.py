"""Who gets in: every route of the app, every way to present a key, and what is never repeated."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from app import main
from app.access import required_scope
from app.main import create_app
from app.neighbours.error_form import is_neighbours
from camserve.api_keys import Scope
from camserve.settings import Settings
from tests.app.front import Front, png, problem, running_front
from tests.app.keys import add_key, guarded_front, remove_key
from tests.app.requests import CountedBody
from tests.neighbours.calls import error

pytestmark = pytest.mark.anyio

OPEN = {
    *("/", "/livez", "/readyz", "/openapi.json", "/problems/{code}"),
    *("/docs", "/docs/{version}/{name}"),
    *("/v2", "/v2/health/live", "/v2/health/ready"),
}
# whatever changes something is said here to be for all, or needs an administrator
EXPLAINING = {
    "POST /v1/explanations",
    "DELETE /v1/explanations/{explanation_id}",
    "POST /v1/models/{model}/predict",
    "POST /v1/models/{model}:explain",
    "POST /v1/models/{model}:predict",
    "POST /v2/models/{model}/infer",
    "POST /v2/models/{model}/versions/{version}/infer",
    "POST /v2/models/{model}/explain",
    "POST /v2/models/{model}/versions/{version}/explain",
    "POST /v2/repository/index",
}


def routes() -> Iterator[tuple[str, str]]:
    """Method and path template of every route there is."""
    app = create_app(Settings(redis_url="redis://unused"))
    for context in iter_route_contexts(app.routes):
        assert not isinstance(context.original_route, Mount), "look inside"
        assert context.path is not None
        assert context.methods, f"{context.path} is no HTTP route: is it guarded?"
        for method in sorted(context.methods):
            yield method, context.path


ROUTES = sorted(set(routes()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
async def guarded(redis_url: str, path: Path) -> AsyncIterator[Front]:
    """Asks for keys, and its client has none."""
    add_key(path, "someone")
    async with guarded_front(redis_url, path) as front:
        yield front


def filled(template: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "x", template)


def refused(template: str) -> Callable[..., dict[str, Any]]:
    """What reads a refusal there: the clients of other protocols have a form of their own."""
    return error if is_neighbours(template) else problem


def test_the_walk_sees_the_routes() -> None:
    assert ("POST", "/v1/explanations") in ROUTES
    assert ("GET", "/v1/explanations/{explanation_id}/results/{number}/overlay") in ROUTES
    assert len(ROUTES) >= 14


@pytest.mark.parametrize(("method", "template"), ROUTES, ids=map(" ".join, ROUTES))
async def test_every_route_needs_a_key_but_those_that_are_open(
    guarded: Front, method: str, template: str
) -> None:
    response = await guarded.client.request(method, filled(template))
    if method in {"GET", "HEAD"} and template in OPEN:
        assert response.status_code not in {401, 403}, response.text
    else:
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="camserve"'
        if method != "HEAD":
            refused(template)(response, 401, "api_key_missing")


@pytest.mark.parametrize(("method", "template"), ROUTES, ids=map(" ".join, ROUTES))
async def test_what_changes_the_service_needs_an_administrator(
    redis_url: str, path: Path, method: str, template: str
) -> None:
    key, boss = add_key(path, "someone"), add_key(path, "boss", Scope.ADMIN)
    async with guarded_front(redis_url, path) as front:
        headers = {"X-API-Key": boss}
        response = await front.client.request(method, filled(template), headers=headers)
        assert response.status_code not in {401, 403}
        headers = {"X-API-Key": key}
        response = await front.client.request(method, filled(template), headers=headers)
        assert response.status_code != 401
        reading = method in {"GET", "HEAD"} and not template.startswith("/v1/dead-letters")
        if reading or f"{method} {template}" in EXPLAINING:
            assert response.status_code != 403
        else:
            document = refused(template)(response, 403, "scope_missing")
            assert document["scope"] == "admin"
            assert "'someone' lacks the scope 'admin'" in str(document)
            assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/models/m/predict", Scope.EXPLAIN),
        ("POST", "/v1/models/m:explain", Scope.EXPLAIN),
        ("POST", "/v1/models/m:predict", Scope.EXPLAIN),
        ("POST", "/v2/models/m/infer", Scope.EXPLAIN),
        ("POST", "/v2/models/m/versions/1/explain", Scope.EXPLAIN),
        ("POST", "/v1/models/m/load", Scope.ADMIN),
        ("POST", "/v1/models/m/unload", Scope.ADMIN),
        ("POST", "/v2/repository/models/m/load", Scope.ADMIN),
        ("POST", "/v1/models/m:predict/load", Scope.ADMIN),
        ("POST", "/v1/models/m/load\n/predict", Scope.ADMIN),
        ("POST", "/v1/explanations/", Scope.ADMIN),
        ("DELETE", "/v1/explanations", Scope.ADMIN),
        ("DELETE", "/v1/models/m", Scope.ADMIN),
        ("POST", "/whatever/comes/next", Scope.ADMIN),
        ("POST", "/livez", Scope.ADMIN),
        ("GET", "/whatever/comes/next", Scope.EXPLAIN),
        ("GET", "/livez/x", Scope.EXPLAIN),
        ("GET", "//livez", Scope.EXPLAIN),
        ("GET", "/livez\n", Scope.EXPLAIN),
        ("GET", "/docs/../v1/models", Scope.EXPLAIN),
        ("GET", "/problems/x/../../v1/models", Scope.EXPLAIN),
        ("GET", "", Scope.EXPLAIN),
        ("GET", "/docs/1.2/x.js", None),
        ("HEAD", "/readyz", None),
        ("GET", "/metrics", Scope.METRICS),
        ("HEAD", "/metrics", Scope.METRICS),
        ("GET", "/metrics/", Scope.EXPLAIN),
        ("POST", "/metrics", Scope.ADMIN),
    ],
)
def test_the_rule(method: str, path: str, scope: Scope | None) -> None:
    assert required_scope(method, path) is scope


async def test_without_a_file_of_keys_all_is_open(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    assert response.status_code == 200
    for headers in ({"Authorization": "Bearer x"}, {"X-API-Key": "x"}):
        assert (await front.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "bEaReR   {}  "),
        ("X-API-Key", "{}"),
        ("x-api-key", " {} "),
    ],
)
async def test_a_key_in_either_header(redis_url: str, path: Path, header: tuple[str, str]) -> None:
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path) as front:
        front.client.headers[header[0]] = header[1].format(key)
        response, _, _ = await front.done(front.post())
        assert response.status_code == 200
        location = response.headers["Location"]
        assert (await front.client.get(location)).status_code == 200
        assert (await front.client.head(location)).status_code == 200
        assert (await front.client.delete(location)).status_code == 200


Raw = list[tuple[bytes, bytes]]
AUTHORIZATION, API_KEY = b"Authorization", b"X-API-Key"


def hostile(key: bytes) -> dict[str, tuple[Raw, str]]:
    """Headers that let nobody in, though `key` is good, and the code of the refusal."""
    other = b"camserve_" + b"0" * 64
    unknown, missing = "api_key_unknown", "api_key_missing"
    return {
        "none": ([], missing),
        "unknown": ([(AUTHORIZATION, b"Bearer " + other)], unknown),
        "unknown, other header": ([(API_KEY, other)], unknown),
        "cut off": ([(AUTHORIZATION, b"Bearer " + key[:-1])], unknown),
        "in capitals": ([(API_KEY, key.upper())], unknown),
        "quoted": ([(API_KEY, b'"' + key + b'"')], unknown),
        "twice in one": ([(API_KEY, key + b", " + key)], unknown),
        "no scheme": ([(AUTHORIZATION, key)], missing),
        "wrong scheme": ([(AUTHORIZATION, b"Basic " + key)], missing),
        "scheme with a colon": ([(AUTHORIZATION, b"Bearer: " + key)], missing),
        "tab for a space": ([(AUTHORIZATION, b"Bearer\t" + key)], missing),
        "empty": ([(AUTHORIZATION, b"Bearer ")], missing),
        "empty both": ([(AUTHORIZATION, b""), (API_KEY, b"")], missing),
        "several": ([(AUTHORIZATION, b"Bearer " + one) for one in (key, other)], unknown),
        "both, different": ([(AUTHORIZATION, b"Bearer " + key), (API_KEY, other)], unknown),
        "not ASCII": ([(AUTHORIZATION, b"Bearer \xff\xfe\xc3\xa4")], unknown),
        "not ASCII beside": ([(API_KEY, key + "ä".encode())], unknown),
        "huge": ([(API_KEY, b"a" * 60_000)], unknown),
        "many": ([(API_KEY, b"%d" % n) for n in range(500)], unknown),
        "in a cookie": ([(b"Cookie", b"key=" + key)], missing),
    }


@pytest.mark.parametrize("case", hostile(b""))
async def test_what_is_not_the_key_is_401_and_is_never_repeated(
    redis_url: str, path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = add_key(path, "someone")
    headers, code = hostile(key.encode())[case]
    with caplog.at_level(logging.DEBUG):
        async with guarded_front(redis_url, path) as front:
            for method, where in (("GET", "/v1/models"), ("POST", "/v1/explanations")):
                response = await front.client.request(method, where, headers=headers)
                document = problem(response, 401, code)
                assert "X-API-Key: KEY" in document["detail"] or "mistyped" in document["detail"]
                shown = response.text + str(response.headers) + caplog.text
                assert key[10:40].lower() not in shown.lower()
                assert "aaaa" not in shown
                assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("case", ["the same in both", "beside a proxy's scheme", "twice"])
async def test_one_key_however_often_lets_in(redis_url: str, path: Path, case: str) -> None:
    key = add_key(path, "someone").encode()
    headers = {
        "the same in both": [(AUTHORIZATION, b"Bearer " + key), (API_KEY, key)],
        "beside a proxy's scheme": [(AUTHORIZATION, b"Basic eDp5"), (API_KEY, key)],
        "twice": [(API_KEY, key), (API_KEY, key)],
    }[case]
    async with guarded_front(redis_url, path) as front:
        assert (await front.client.get("/v1/models", headers=headers)).status_code == 200


async def test_a_key_in_the_address_lets_nobody_in(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path) as front:
        for name in ("key", "api_key", "access_token", "X-API-Key"):
            response = await front.client.get("/v1/models", params={name: key})
            assert key not in problem(response, 401, "api_key_missing").values()


async def test_who_has_no_key_is_refused_before_the_body_is_read(guarded: Front) -> None:
    body = CountedBody()
    response = await guarded.client.post(
        "/v1/explanations", content=body, headers={"Content-Type": "image/png"}
    )
    problem(response, 401, "api_key_missing")
    assert body.is_unread


async def test_what_is_not_there_is_not_told_to_strangers(guarded: Front) -> None:
    for where in ("/v1/models/none", "/v1/nonsense", "/nonsense", "/v1/explanations/x"):
        problem(await guarded.client.get(where), 401, "api_key_missing")


async def becoming(front: Front, status: int, looks: int = 3000) -> httpx.Response:
    """The first answer of that status, or the last one."""
    for look in range(looks):
        response = await front.client.get("/v1/models")
        if response.status_code == status or look == looks - 1:
            break
        await asyncio.sleep(0.02)
    return response


def write(path: Path, text: str) -> None:
    """At once, as `camserve keys` does: who looks meanwhile finds no half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def test_a_key_that_is_added_or_removed_counts_without_a_restart(
    redis_url: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(main, "REFRESH_KEYS_S", 0.02)
    key = add_key(path, "first")
    async with guarded_front(redis_url, path, key) as front:
        assert (await becoming(front, 200)).status_code == 200
        write(path, "[keys.")  # must lock nobody out, nor let anybody in
        async with asyncio.timeout(60):
            while "cannot be read" not in caplog.text:  # noqa: ASYNC110 - the log tells
                await asyncio.sleep(0.01)
        assert (await front.client.get("/v1/models")).status_code == 200
        write(path, "")
        problem(await becoming(front, 401), 401, "api_key_unknown")
        front.client.headers["Authorization"] = f"Bearer {add_key(path, 'second')}"
        assert (await becoming(front, 200)).status_code == 200
        remove_key(path, "second")
        problem(await becoming(front, 401), 401, "api_key_unknown")


async def test_a_refresh_that_fails_is_tried_again(
    redis_url: str, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(main, "REFRESH_KEYS_S", 0.02)
    key = add_key(path, "first")
    real = main.KeyFile.refresh
    failed = 0

    def failing(keys: Any) -> None:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise RuntimeError("out of threads")
        real(keys)

    monkeypatch.setattr(main.KeyFile, "refresh", failing)
    async with guarded_front(redis_url, path, key) as front:
        remove_key(path, "first")
        problem(await becoming(front, 401), 401, "api_key_unknown")
    assert "out of threads" in caplog.text


async def test_the_same_idempotency_key_of_two_callers_is_two(redis_url: str, path: Path) -> None:
    a, b = add_key(path, "a"), add_key(path, "b")
    headers = {"Idempotency-Key": "same", "Prefer": "respond-async"}
    async with guarded_front(redis_url, path) as front:

        async def ask(key: str, color: Any = (1, 2, 3)) -> httpx.Response:
            return await front.post(png(color=color), headers=headers | {"X-API-Key": key})

        ids = [(await ask(key)).json()["id"] for key in (a, b, a, b)]
        assert ids[:2] == ids[2:]
        assert ids[0] != ids[1]
        document = problem(await ask(b, (9, 9, 9)), 409, "idempotency_conflict")
        assert "'same'" in document["detail"]
        assert not [key for key in await front.redis.keys("*") if a.encode() in key]


async def test_keys_are_nowhere_in_redis(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone")
    async with guarded_front(redis_url, path, key) as front:
        asked = front.post(headers={"Idempotency-Key": "k"})
        assert (await front.done(asked))[0].status_code == 200
        for name in await front.redis.keys("*"):
            value = name + (await front.redis.dump(name) or b"")
            assert key.encode() not in value
            assert key.removeprefix("camserve_").encode() not in value


@pytest.mark.parametrize("text", [None, "[keys."])
def test_an_app_without_readable_keys_is_not_made(path: Path, text: str | None) -> None:
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot read .*keys\.toml"):
        create_app(Settings(redis_url="redis://unused", api_keys_file=path))


def test_an_app_that_others_could_reach_is_not_made_without_keys(path: Path) -> None:
    with pytest.raises(ValueError, match="CAMSERVE_ALLOW_ANONYMOUS"):
        create_app(Settings(redis_url="redis://unused", host="0.0.0.0"))
    create_app(Settings(redis_url="redis://unused", host="0.0.0.0", allow_anonymous=True))
    add_key(path, "someone")
    create_app(Settings(redis_url="redis://unused", host="0.0.0.0", api_keys_file=path))


async def test_keys_count_although_anonymous_calls_are_allowed(redis_url: str, path: Path) -> None:
    add_key(path, "someone")
    async with guarded_front(redis_url, path, allow_anonymous=True) as front:
        problem(await front.client.get("/v1/models"), 401, "api_key_missing")


async def test_a_page_of_another_origin_may_ask_before_it_shows_a_key(
    redis_url: str, path: Path
) -> None:
    """Browsers send preflights without headers; and must be able to read a refusal."""
    add_key(path, "someone")
    page = "https://app.example.com"
    async with running_front(redis_url, api_keys_file=path, cors_origins=(page,)) as front:
        asked = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        preflight = await front.client.options("/v1/explanations", headers=asked)
        assert preflight.status_code == 200
        refused = await front.client.get("/v1/models", headers={"Origin": page})
        assert refused.headers["Access-Control-Allow-Origin"] == page
        problem(refused, 401, "api_key_missing")


async def test_below_another_path_the_rule_is_the_same(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone")
    settings = Settings(redis_url=redis_url, api_keys_file=path)
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            scope |= {"state": dict(state or {}), "root_path": "/cam"}
            await app(scope, receive, send)

        transport = httpx.ASGITransport(app=mounted)
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            assert (await client.get("/cam/livez")).status_code == 200
            problem(await client.get("/cam/v1/models"), 401, "api_key_missing")
            headers = {"X-API-Key": key}
            assert (await client.get("/cam/v1/models", headers=headers)).status_code == 200
