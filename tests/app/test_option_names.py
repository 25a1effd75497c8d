"""Options in the wrong place, twice, or of names as long as a body."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from app.negotiation import PNG
from tests.app.front import Front, png, problem

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"
LONG = "colormap" + "p" * 6_000_000
IN_A_FORM = LONG[:3000]  # whose own limit is not far above


async def test_the_form_of_the_answer_belongs_into_the_url(front: Front) -> None:
    asks: list[dict[str, Any]] = [
        {"data": {"model": "toy", "as": "webp"}, "files": {"input": png()}},
        {"json": {"model": "toy", "as": "webp", "inputs": []}},
        {"data": {"request": '{"model": "toy", "as": "webp"}'}, "files": {"input": png()}},
    ]
    for ask in asks:
        found = problem(await front.client.post(URL, **ask), 422, "invalid_request")
        assert "put ?as=webp into the URL" in found["detail"]
        assert found["field"] == "as"


@pytest.mark.parametrize(
    ("url", "name", "said"),
    [
        (URL, "targets", "give class_index, class_label, top,"),
        (URL, "output", "give its members, as in colormap=jet"),
        (URL, "inputs", "send the files themselves"),
        ("/v1/models/toy/predict", "inputs", "send the files themselves"),
        ("/v1/models/toy/predict", "model", "the address names the model"),
        ("/v1/models/toy/predict", "output", "unknown field 'output'"),
    ],
)
@pytest.mark.parametrize("flat", ["form", "query"])
async def test_what_is_no_flat_field_says_what_is_instead(
    front: Front, url: str, name: str, said: str, flat: str
) -> None:
    fields = {name: "[]"} | ({} if "predict" in url else {"model": "toy"})
    form: dict[str, Any] = {"data": fields, "files": {"input": png()}}
    raw: dict[str, Any] = {"params": fields, "content": png(), "headers": {"Content-Type": PNG}}
    response = await front.client.post(url, **(form if flat == "form" else raw))
    found = problem(response, 422, "invalid_request")
    assert said in found["detail"]
    assert found["field"] == name
    assert ("`request`" in found["detail"]) == (name in {"targets", "inputs"} or url == URL)


@pytest.mark.parametrize(
    ("method", "url", "said"),
    [
        ("GET", "{href}?az=npy", "unknown query parameter 'az'; did you mean 'as'?"),
        ("GET", "{href}?as=npy&as=zip", "as is given 2 times"),
        ("GET", "{href}/events?since=3", "unknown query parameter 'since'"),
        ("DELETE", "{href}?force=1", "unknown query parameter 'force'"),
        ("GET", "/v1/models?state=ready", "unknown query parameter 'state'"),
        ("GET", "/v1/models/toy?full=1", "unknown query parameter 'full'"),
        ("GET", "/v1/models/toy/layers?top=3", "unknown query parameter 'top'"),
        ("POST", "/v1/models/toy/load?device=cpu", "unknown query parameter 'device'"),
    ],
)
async def test_an_option_that_is_not_there_is_not_ignored(
    front: Front, method: str, url: str, said: str
) -> None:
    response, _, _ = await front.done(front.post())
    asked = url.format(href=response.headers["Location"])
    found = problem(await front.client.request(method, asked), 422, "invalid_request")
    assert found["detail"] == said
    assert found["field"] in url


@pytest.mark.parametrize("view", ["map", "overlay"])
@pytest.mark.parametrize("query", ["size=64&size=32", "as=png&as=webp", "size=64&size=64"])
async def test_an_option_of_a_view_that_is_given_twice(front: Front, view: str, query: str) -> None:
    response, _, _ = await front.done(front.post())
    href = f"{response.headers['Location']}/results/0/{view}?{query}"
    found = problem(await front.client.get(href), 422, "invalid_request")
    name = query.partition("=")[0]
    assert found["detail"] == f"{name} is given 2 times"
    assert found["field"] == name


@pytest.mark.parametrize(
    "ask",
    [
        {"data": {"model": "toy", IN_A_FORM: "1"}, "files": {"input": png()}},
        {"json": {"model": "toy", LONG: 1}},
        {"json": {"model": "toy", "output": {LONG: 1}}},
        {"data": {"model": "toy"}, "files": {IN_A_FORM: png()}},
        {"data": {"model": "toy", "alpha": LONG}, "files": {"input": png()}},
        {"data": {"model": "toy", "top": LONG}, "files": {"input": png()}},
    ],
    ids=["form", "JSON", "nested", "file", "number", "whole number"],
)
async def test_a_name_of_megabytes_is_cut(front: Front, ask: dict[str, Any]) -> None:
    response = await front.client.post(URL, **ask)
    assert problem(response, 422, "invalid_request")
    assert len(response.content) < 1000


async def test_a_long_name_is_not_searched_for_whole() -> None:
    """The search takes time and room with the square of the length."""
    from camserve.errors import near_names

    tracemalloc.start()
    try:
        assert near_names(LONG, ["colormap"]) == []
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
