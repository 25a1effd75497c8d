"""ETag, If-None-Match and Cache-Control: what a browser has is not made or sent again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio


async def explained(front: Front) -> str:
    response, _, _ = await front.done(front.post(params={"class_index": "1,3"}))
    assert response.status_code == 200
    return str(response.headers["Location"])


VIEWS = [
    *("results/0/map", "results/0/map?as=json", "results/0/overlay", "results/1/overlay?alpha=1"),
    "?as=npy",
]


@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_is_not_made_again(
    front: Front, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    href = await explained(front)
    url = f"{href}{view}" if view.startswith("?") else f"{href}/{view}"
    first = await front.client.get(url)
    assert first.headers["Cache-Control"] == "private, max-age=3600, immutable"
    etag = first.headers["ETag"]

    async def made_again(*_: Any) -> None:
        raise AssertionError

    for module in ("app.routers.results", "app.answers"):
        monkeypatch.setattr(f"{module}.finished", made_again)
    for listed in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await front.client.get(url, headers={"If-None-Match": listed})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("ETag", "Cache-Control", "Vary"):
            assert again.headers[name] == first.headers[name]
        assert again.headers["X-Request-ID"]
    monkeypatch.undo()
    anything = await front.client.get(url, headers={"If-None-Match": "*"})
    assert (anything.status_code, anything.headers["ETag"]) == (304, etag)
    changed = await front.client.get(url, headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200
    assert changed.content == first.content
    assert changed.headers["ETag"] == etag


async def test_each_view_has_a_tag_of_its_own(front: Front, redis_url: str) -> None:
    href, other = await explained(front), await explained(front)
    views = [
        *(
            "map",
            "map?as=json",
            "map?size=8",
            "map?convention=captum",
            "overlay",
            "overlay?as=webp",
        ),
        *("overlay?alpha=0.5", "overlay?view=heatmap"),
    ]
    tags = [
        (await front.client.get(f"{which}/results/{number}/{view}")).headers["ETag"]
        for which in (href, other)
        for number in (0, 1)
        for view in views
    ]
    assert len(set(tags)) == len(tags)
    # an option that is spelt out is the same picture
    spelt = await front.client.get(f"{href}/results/0/overlay?view=overlay&as=png")
    assert spelt.headers["ETag"] == tags[views.index("overlay")]
    # a limit that decides over the default size is another one
    async with running_front(redis_url, max_output_megapixels=0.0004) as small:
        await small.publish()
        href = await explained(small)
        first = (await small.client.get(f"{href}/results/0/map")).headers["ETag"]
        async with running_front(redis_url) as large:
            assert (await large.client.get(f"{href}/results/0/map")).headers["ETag"] != first


async def test_an_explanation_is_asked_for_again_and_sent_when_it_changed(front: Front) -> None:
    response = await front.post(headers={"Prefer": "respond-async"})
    href = response.headers["Location"]
    queued = await front.client.get(href)
    assert queued.headers["Cache-Control"] == "no-cache"
    mark = {"If-None-Match": queued.headers["ETag"]}
    same = await front.client.get(href, headers=mark)
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["Cache-Control"] == "no-cache"
    await front.work()
    done = await front.client.get(href, headers=mark)
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    assert done.headers["ETag"] != queued.headers["ETag"]


async def test_the_answer_to_the_request_has_the_tag_of_what_get_gives(front: Front) -> None:
    response, _, _ = await front.done(front.post())
    again = await front.client.get(
        response.headers["Location"], headers={"If-None-Match": response.headers["ETag"]}
    )
    assert again.status_code == 304


async def test_there_is_no_304_of_what_is_not_there(front: Front) -> None:
    response = await front.post(headers={"Prefer": "respond-async"})
    url = f"{response.headers['Location']}/results/0/map"
    anything = {"If-None-Match": "*"}
    problem(await front.client.get(url, headers=anything), 409, "not_ready")
    missing = "/v1/explanations/01JD8Q4V1N0Z7M3K5T9W2XACBE-toy"
    for href in (missing, f"{missing}/results/0/overlay"):
        problem(await front.client.get(href, headers=anything), 404, "explanation_not_found")


@pytest.mark.parametrize(
    ("view", "status"),
    [("results/7/map", 404), ("results/7/overlay", 404), ("results/0/overlay?size=feature", 422)],
)
async def test_there_is_no_304_of_a_view_that_cannot_be_made(
    front: Front, view: str, status: int
) -> None:
    url = f"{await explained(front)}/{view}"
    response = await front.client.get(url, headers={"If-None-Match": "*"})
    assert response.status_code == status


@pytest.mark.parametrize(
    "url",
    [
        *("/v1/models", "/v1/models/toy", "/v1/models/toy/layers", "/v1/explanations?limit=1"),
        "{href}?as=zip",
    ],
)
async def test_what_may_change_is_asked_for_again_and_not_sent_again(
    front: Front, url: str
) -> None:
    url = url.format(href=await explained(front))
    await explained(front)  # so that the list has a second page
    first = await front.client.get(url)
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
    for listed in (first.headers["ETag"], "*"):
        again = await front.client.get(url, headers={"If-None-Match": listed})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("ETag", "Cache-Control", "Link", "Vary"):
            assert again.headers.get(name) == first.headers.get(name)
    changed = await front.client.get(url, headers={"If-None-Match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)


async def test_the_list_changes_with_what_is_in_it(front: Front) -> None:
    await explained(front)
    for url in ("/v1/explanations", "/v1/models"):
        first = (await front.client.get(url)).headers["ETag"]
        response = await front.post(headers={"Prefer": "respond-async"})
        assert (await front.client.get(url)).headers["ETag"] != first
        await front.work()
        assert response.status_code == 202


def timing(response: httpx.Response) -> dict[str, float]:
    entries = (part.strip() for part in response.headers["Server-Timing"].split(","))
    pairs = (entry.split(";dur=") for entry in entries)
    return {name: float(value) for name, value in pairs}


@pytest.mark.parametrize("form", ["json", "npy", "zip", "png"])
async def test_where_the_time_went(front: Front, form: str) -> None:
    response, _, _ = await front.done(front.post(png(), params={"as": form}))
    found = timing(response)
    assert list(found) == ["prepare", "queue", "compute", "present"]
    assert found["compute"] == 1.5
    assert all(value >= 0 for value in found.values())
    href = response.headers["Location"]
    assert list(timing(await front.client.get(href))) == ["queue", "compute", "present"]
    for view in ("map", "map?as=json", "overlay"):
        later = timing(await front.client.get(f"{href}/results/0/{view}"))
        assert list(later) == ["queue", "compute", "present"]


async def test_where_the_time_of_what_waits_went(front: Front) -> None:
    response = await front.post(headers={"Prefer": "respond-async"})
    assert list(timing(response)) == ["prepare", "present"]
