"""Links to results: they open what they are for without a key, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.signatures import Signer, without_signature
from camserve.broker import LinkSecret, connect
from tests.app.front import Front, png, problem, running_front
from tests.app.keys import add_key, guarded_front

pytestmark = pytest.mark.anyio

STYLE = {"view": "contour", "colormap": "viridis", "alpha": "0.25", "size": "64"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
async def guarded(redis_url: str, path: Path) -> AsyncIterator[Front]:
    async with guarded_front(redis_url, path, add_key(path, "someone")) as front:
        yield front


async def explained(front: Front, **options: Any) -> dict[str, Any]:
    response, _, _ = await front.done(front.post(**options))
    assert response.status_code == 200, response.text
    return dict(response.json())


def links(document: dict[str, Any]) -> list[str]:
    return [r[what]["href"] for r in document["results"] for what in ("map", "overlay")]


async def stranger(front: Front, method: str, href: str) -> httpx.Response:
    """Without a key, as a browser that follows `<img src>`."""
    request = front.client.build_request(method, href)
    del request.headers["Authorization"]
    return await front.client.send(request)


async def test_links_open_maps_and_pictures_without_a_key(guarded: Front) -> None:
    document = await explained(guarded, params={"class_index": "0,1"})
    assert len(links(document)) == 4
    for href in links(document):
        for method in ("GET", "HEAD"):
            assert (await stranger(guarded, method, href)).status_code == 200
        bare = href.partition("?")[0]
        problem(await stranger(guarded, "GET", bare), 401, "api_key_missing")
        assert (await guarded.client.get(bare)).status_code == 200


async def test_the_signature_is_128_bits_of_the_hmac_of_the_id(guarded: Front) -> None:
    document = await explained(guarded)
    (signature,) = parse_qs(urlsplit(links(document)[0]).query)["signature"]
    secret = await guarded.redis.get("cam:link-secret")
    assert len(secret) == 32
    message = b"results of " + document["id"].encode()
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(f"{signature}==") == digest[:16]


async def test_a_link_keeps_the_style_and_takes_more_options(guarded: Front) -> None:
    document = await explained(guarded, params=STYLE)
    overlay = document["results"][0]["overlay"]["href"]
    asked = dict(parse_qsl(urlsplit(overlay).query))
    assert asked.items() >= STYLE.items()
    picture = Image.open(io.BytesIO((await stranger(guarded, "GET", overlay)).content))
    assert max(picture.size) == 64
    for more in ("&as=webp", "&threshold=0.5&as=jpeg"):
        response = await stranger(guarded, "GET", overlay + more)
        assert response.status_code == 200, response.text
    wrong = await stranger(guarded, "GET", f"{overlay}&signatur=x")
    assert problem(wrong, 422, "invalid_request")["field"] == "signatur"
    # in front of the others, too
    base, _, query = overlay.partition("?")
    first = urlencode([("signature", asked.pop("signature")), *asked.items()])
    assert query != first
    assert (await stranger(guarded, "GET", f"{base}?{first}")).status_code == 200
    twice = await stranger(guarded, "GET", f"{overlay}&alpha=0.5")
    assert "alpha is given 2 times" in problem(twice, 422, "invalid_request")["detail"]


async def test_a_link_opens_nothing_else(guarded: Front) -> None:
    one, other = await explained(guarded), await explained(guarded)
    query = links(one)[0].partition("?")[2]
    bare = links(other)[0].partition("?")[0]
    problem(await stranger(guarded, "GET", f"{bare}?{query}"), 401, "signature_invalid")
    for method, where in (
        ("GET", one["href"]),
        ("DELETE", one["href"]),
        ("GET", "/v1/models"),
        ("POST", f"{one['href']}/results/0/map"),
        ("DELETE", f"{one['href']}/results/0/map"),
        ("DELETE", f"{one['href']}/events"),
        ("GET", f"{one['href']}/results"),
    ):
        refused = await stranger(guarded, method, f"{where}?{query}")
        problem(refused, 401, "api_key_missing")


HOSTILE = ["", "A" * 22, "ä" * 22, "\x00", "%", "x" * 8000, "\udcff", "AAAA\nBBBB"]


@pytest.mark.parametrize("signature", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_wrong_signature_is_401_and_not_an_error_of_ours(
    guarded: Front, signature: str
) -> None:
    document = await explained(guarded)
    href = links(document)[1].partition("?")[0]
    query = f"signature={quote(signature, errors='surrogatepass')}"
    response = await stranger(guarded, "GET", f"{href}?{query}")
    assert "take the link" in problem(response, 401, "signature_invalid")["detail"]
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="camserve"'
    # with a key it does not matter
    assert (await guarded.client.get(f"{href}?{query}")).status_code == 200


async def test_a_near_miss_is_a_miss(guarded: Front) -> None:
    href = links(await explained(guarded))[0]
    for wrong in (href[:-1], f"{href}A", f"{href}==", href.swapcase()[-22:]):
        response = await stranger(guarded, "GET", wrong if "/" in wrong else href[:-22] + wrong)
        problem(response, 401, "signature_invalid")
    signature = href.rpartition("?")[2]
    problem(await stranger(guarded, "GET", f"{href}&{signature}"), 401, "signature_invalid")
    # the same, spelt otherwise
    assert (await stranger(guarded, "GET", href.replace("signature", "%73ignature"))).is_success


async def test_a_wrong_key_beside_a_good_link_does_no_harm(guarded: Front) -> None:
    href = links(await explained(guarded))[1]
    guarded.client.headers["Authorization"] = "Basic cHJveHk6cHJveHk="
    assert (await guarded.client.get(href)).status_code == 200
    guarded.client.headers["Authorization"] = "Bearer camserve_0"
    assert (await guarded.client.get(href)).status_code == 200


async def test_two_front_ends_sign_alike(redis_url: str, path: Path) -> None:
    key = add_key(path, "someone")
    async with (
        guarded_front(redis_url, path, key) as one,
        guarded_front(redis_url, path, key) as other,
    ):
        document = await explained(one)
        again = (await other.client.get(document["href"])).json()
        assert links(again) == links(document)
        for href in links(document):
            assert (await stranger(other, "GET", href)).status_code == 200
        # a server that lost its data lost what the links lead to as well; then both go on alike
        await one.redis.flushall()
        problem(await stranger(one, "GET", links(document)[0]), 401, "signature_invalid")
        await one.publish()
        document = await explained(other)
        assert (await stranger(one, "GET", links(document)[0])).status_code == 200


async def test_many_who_ask_first_get_one_secret(redis_url: str) -> None:
    clients = [connect(redis_url) for _ in range(16)]
    try:
        secrets = await asyncio.gather(*(LinkSecret(client).get() for client in clients))
        assert len(set(secrets)) == 1
        assert len(secrets[0]) == 32
    finally:
        for client in clients:
            await client.aclose()


async def test_an_archive_holds_signed_links_too(guarded: Front) -> None:
    response, _, _ = await guarded.done(guarded.post(headers={"Accept": "application/zip"}))
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        document = json.loads(archive.read("manifest.json"))
    assert (await stranger(guarded, "GET", links(document)[1])).status_code == 200


async def test_every_answer_with_links_signs_them(guarded: Front) -> None:
    encoded = base64.b64encode(png()).decode()
    asked = guarded.client.post("/v1/models/toy:explain", json={"instances": [{"b64": encoded}]})
    response, _, _ = await guarded.done(asked)
    document = response.json()
    signed = [document["explanations"][0]["overlay"]["href"]]
    (listed,) = (await guarded.client.get("/v1/explanations")).json()["explanations"]
    signed.append(listed["overlay"]["href"])
    events = await guarded.client.get(f"{document['href']}/events")
    (data,) = [line for line in events.text.splitlines() if line.startswith("data:")]
    told = json.loads(data.removeprefix("data:"))
    signed += [*links(told), told["events"]["href"]]
    assert len(signed) == 5
    for href in signed:
        assert (await stranger(guarded, "GET", href)).status_code == 200


async def test_an_event_source_needs_no_key(guarded: Front) -> None:
    document = await explained(guarded)
    href = document["events"]["href"]
    response = await stranger(guarded, "GET", href)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert json.loads(response.text.splitlines()[0].removeprefix("data:"))["id"] == document["id"]
    bare, _, signature = href.partition("?signature=")
    problem(await stranger(guarded, "GET", bare), 401, "api_key_missing")
    problem(
        await stranger(guarded, "GET", f"{bare}?signature=x{signature}"), 401, "signature_invalid"
    )
    problem(
        await stranger(guarded, "GET", f"{document['href']}?signature={signature}"),
        401,
        "api_key_missing",
    )


async def test_events_can_be_followed_before_there_are_results(guarded: Front) -> None:
    accepted = await guarded.post(headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    href = accepted.json()["events"]["href"]
    assert (await guarded.client.get(accepted.headers["Location"])).json()["events"]["href"] == href
    assert (await stranger(guarded, "HEAD", href)).status_code == 200


async def test_without_keys_links_have_no_signature_and_old_ones_still_open(
    redis_url: str, path: Path
) -> None:
    async with running_front(redis_url) as front:
        await front.publish()
        document = await explained(front)
        assert not any("signature" in href for href in links(document))
        assert await front.redis.exists("cam:link-secret") == 0
        # made while there were keys
        href = f"{links(document)[1]}?signature=whatever&size=64"
        assert (await front.client.get(href)).status_code == 200


async def test_a_signature_is_no_option_elsewhere(front: Front) -> None:
    response = await front.post(params={"signature": "x"})
    assert problem(response, 422, "invalid_request")["field"] == "signature"


async def test_without_redis_a_link_is_503_and_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    add_key(path, "someone")
    async with running_front("redis://127.0.0.1:1", api_keys_file=path) as front:
        href = "/v1/explanations/01J00000000000000000000000-toy/results/0/map"
        response = await front.client.get(f"{href}?signature={'A' * 22}")
        problem(response, 503, "queue_unavailable")
        problem(await front.client.get(href), 401, "api_key_missing")


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest

    def compare(expected: bytes, given: bytes) -> bool:
        compared.append((expected, given))
        return real(expected, given)

    monkeypatch.setattr("app.signatures.hmac.compare_digest", compare)
    signer = Signer(b"s" * 32)
    assert signer.has_signed("id", signer.signature("id"))
    assert not signer.has_signed("id", "x")
    assert not signer.has_signed("other", signer.signature("id"))
    assert not Signer(b"t" * 32).has_signed("id", signer.signature("id"))
    assert len(compared) == 4


@given(
    st.lists(st.tuples(st.text("abc=&%", max_size=3), st.text("xyzä&=+", max_size=3)), max_size=4)
)
def test_all_else_in_a_query_is_left_as_it_is(pairs: list[tuple[str, str]]) -> None:
    query = urlencode(pairs)
    assert without_signature(query.encode()) == (query.encode(), [])
    with_one = urlencode([*pairs[:1], ("signature", "a+/="), *pairs[1:]])
    left, found = without_signature(with_one.encode())
    assert (left, found) == (query.encode(), ["a+/="])
