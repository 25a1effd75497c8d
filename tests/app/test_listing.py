"""GET /v1/explanations: recent ones, for dashboards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from camserve.contracts.explanations import ExplanationList
from tests.app.front import CARD, Front, png, problem

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"
ASYNC = {"Prefer": "respond-async"}


async def submitted(front: Front, model: str = "toy", **fields: Any) -> str:
    response = await front.post(params={"model": model} | fields, headers=ASYNC)
    assert response.status_code == 202
    return str(response.json()["id"])


async def listed(front: Front, **query: Any) -> ExplanationList:
    response = await front.client.get(URL, params=query)
    assert response.status_code == 200, response.text
    return ExplanationList.model_validate(response.json())


async def test_what_a_dashboard_shows_of_each(front: Front) -> None:
    files = [("input", ("cat.png", png())), ("input", ("dog.png", png()))]
    data = {"model": "toy", "class_index": "1,3", "priority": "bulk", "view": "heatmap"}
    response = await front.client.post(URL, data=data, files=files, headers=ASYNC)
    (waiting,) = (await listed(front)).explanations
    assert waiting.id == response.json()["id"]
    assert (waiting.state, waiting.overlay, waiting.priority) == ("queued", None, "bulk")
    assert (waiting.inputs, waiting.input_names, waiting.maps) == (2, ("cat.png", "dog.png"), 4)
    await front.work()
    (done,) = (await listed(front)).explanations
    whole = (await front.client.get(done.href)).json()
    assert done.overlay is not None
    assert done.overlay.href == whole["results"][0]["overlay"]["href"]
    assert len(whole["results"]) == done.maps
    shown = done.model_dump(mode="json")
    for name in ("id", "state", "model", "created_at", "completed_at", "attempts", "error"):
        assert shown[name] == whole[name]


async def test_pages(front: Front) -> None:
    await front.publish(CARD.model_copy(update={"name": "other"}))
    await front.heartbeat("toy", "other")
    ids = [await submitted(front, model) for model in ("toy", "other", "toy", "toy", "other")]
    found: list[str] = []
    url: str | None = f"{URL}?limit=2"
    while url:
        response = await front.client.get(url)
        page = response.json()
        assert len(page["explanations"]) <= 2
        found += [one["id"] for one in page["explanations"]]
        url = response.links["next"]["url"] if "next" in response.links else None
        assert (url is None) is (page["next_cursor"] is None)
    assert found == ids[::-1]
    of_other = await listed(front, model="other", limit=1)
    assert [one.id for one in of_other.explanations] == [ids[4]]
    rest = await listed(front, model="other", limit=1, cursor=of_other.next_cursor)
    assert [one.id for one in rest.explanations] == [ids[1]]


async def test_states(front: Front) -> None:
    first, second, third = [await submitted(front) for _ in range(3)]
    await front.work()
    await front.client.delete(f"{URL}/{second}")

    async def ids(*states: str) -> list[str]:
        return [one.id for one in (await listed(front, state=states)).explanations]

    assert await ids("succeeded") == [first]
    assert await ids("canceled", "queued") == [third, second]
    assert await ids("failed") == []


async def test_a_prediction_is_no_explanation(front: Front) -> None:
    asked = front.client.post(
        "/v1/models/toy/predict", content=png(), headers={"Content-Type": "image/png"}
    )
    waiting = asyncio.ensure_future(asked)
    await front.begin()
    assert (await listed(front)).explanations == ()
    waiting.cancel()


async def test_a_load_is_no_explanation(front: Front) -> None:
    cold = CARD.model_copy(update={"name": "cold", "state": "declared"})
    await front.publish(cold)
    response = await front.post(params={"model": "cold", "deadline_ms": "200"})
    problem(response, 503, "model_loading")
    assert await front.registry.card("cold")
    assert (await listed(front)).explanations == ()


async def test_the_limit_at_its_edges(front: Front) -> None:
    for limit in ("1", "100"):
        assert (await front.client.get(URL, params={"limit": limit})).status_code == 200
    for limit in ("0", "101", "x", "1e1"):
        document = problem(
            await front.client.get(URL, params={"limit": limit}), 422, "invalid_request"
        )
        assert document["field"] == "limit"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("cursor=1", "cursor: not the next_cursor of a page"),
        ("cursor=01JD8Q4V1N0Z7M3K5T9W2XACBE", "cursor: not the next_cursor of a page"),
        ("state=done", "state: must be 'queued', 'running', "),
        ("state=failed&state=done", "state: must be 'queued'"),
        ("stat=failed", "did you mean 'state'?"),
        ("733=1", "733: unknown field '733'"),
        ("limit=1&limit=2", "limit is given 2 times"),
        ("model=toy&model=toy", "model is given 2 times"),
    ],
)
async def test_a_query_that_means_nothing(front: Front, query: str, said: str) -> None:
    document = problem(await front.client.get(f"{URL}?{query}"), 422, "invalid_request")
    assert said in document["detail"]


async def test_a_model_that_is_not_there(front: Front) -> None:
    document = problem(await front.client.get(URL, params={"model": "toi"}), 404, "model_not_found")
    assert document["near"] == ["toy"]
