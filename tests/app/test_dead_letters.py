"""Dead letters by the API: who they are told to, what they say, replays and purges."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from camserve.api_keys import Scope
from camserve.broker import JobQueue, keys
from camserve.contracts.dead_letters import DeadLetter, DeadLetterList
from camserve.contracts.jobs import Job
from tests.app.front import CARD, Front, png, problem, result_of, running_front
from tests.app.keys import add_key, guarded_front
from tests.broker.jobs import assert_at_rest, eventually, kill

pytestmark = pytest.mark.anyio

URL = "/v1/dead-letters"
ASYNC = {"Prefer": "respond-async"}


async def killed(front: Front, **params: Any) -> str:
    """An explanation that was given up; its id."""
    response = await front.post(params=params, headers=ASYNC)
    assert response.status_code == 202, response.text
    queue = JobQueue(front.redis, front.options)
    return await kill(queue, front.redis, front.options, response.json()["id"])


async def listed(front: Front, **query: Any) -> DeadLetterList:
    response = await front.client.get(URL, params=query)
    assert response.status_code == 200, response.text
    return DeadLetterList.model_validate(response.json())


async def test_what_the_operator_is_told(front: Front) -> None:
    response = await front.post(params={"priority": "bulk"}, headers=ASYNC)
    job_id = response.json()["id"]
    payload = await front.redis.get(keys.payload("toy", job_id))
    queue = JobQueue(front.redis, front.options)
    await kill(queue, front.redis, front.options, job_id)
    (letter,) = (await listed(front)).dead_letters
    dead = (await front.client.get(f"/v1/explanations/{job_id}")).json()
    assert (letter.id, letter.kind, letter.model) == (job_id, "explain", "toy")
    assert (letter.model_version, letter.priority) == (CARD.version, "bulk")
    assert letter.reason == "its worker died in each of 3 attempts"
    assert letter.input_digest == hashlib.sha256(payload).hexdigest()
    assert letter.request_id == response.headers["X-Request-ID"]
    assert [one.ended_by for one in letter.attempts] == ["death"] * 3
    shown = letter.model_dump(mode="json")
    assert (shown["created_at"], shown["died_at"]) == (dead["created_at"], dead["completed_at"])
    assert letter.replayable_until is not None
    kept_s = (letter.replayable_until - letter.died_at).total_seconds()
    assert kept_s == front.options.job_ttl_s
    assert (letter.replay, letter.replay_of) == (None, None)
    assert (await front.client.get(letter.href)).json() == shown


async def test_equal_inputs_have_equal_digests(front: Front) -> None:
    for content in (png(), png(), png(color=(1, 2, 3))):
        response = await front.post(content, headers=ASYNC)
        queue = JobQueue(front.redis, front.options)
        await kill(queue, front.redis, front.options, response.json()["id"])
    other, second, first = [one.input_digest for one in (await listed(front)).dead_letters]
    assert first == second != other


async def test_a_replay_is_an_explanation_of_its_own(front: Front) -> None:
    job_id = await killed(front, class_index="1")
    dead = (await front.client.get(f"/v1/explanations/{job_id}")).json()
    await front.publish(CARD.model_copy(update={"version": "v2"}))  # mended
    response = await front.client.post(f"{URL}/{job_id}/replay")
    assert response.status_code == 202, response.text
    letter = DeadLetter.model_validate(response.json())
    assert letter.replay is not None
    assert (letter.id, letter.replay.state) == (job_id, "queued")
    assert response.headers["Location"] == letter.replay.explanation
    again = (await front.client.get(response.headers["Location"])).json()
    assert (again["replay_of"], again["model_version"]) == (job_id, "v2")
    begun = await front.begin()
    job = Job.model_validate_json(begun.document)
    assert job.request_id == response.headers["X-Request-ID"]
    assert await front.worker.finish(begun, result_of(job))
    done = (await front.client.get(response.headers["Location"])).json()
    assert (done["state"], len(done["results"])) == ("succeeded", 1)
    overlay = await front.client.get(done["results"][0]["overlay"]["href"])
    assert overlay.status_code == 200, "the picture came along"
    (letter,) = (await listed(front)).dead_letters
    assert letter.replay is not None
    assert letter.replay.state == "succeeded"
    assert (await front.client.get(f"/v1/explanations/{job_id}")).json() == dead
    await assert_at_rest(front.redis)


async def test_a_replay_that_dies_says_of_what_it_was_one(front: Front) -> None:
    job_id = await killed(front)
    replay = (await front.client.post(f"{URL}/{job_id}/replay")).json()["replay"]
    queue = JobQueue(front.redis, front.options)
    await kill(queue, front.redis, front.options, replay["id"])
    second, first = (await listed(front)).dead_letters
    assert (second.id, second.replay_of, second.input_digest) == (
        replay["id"],
        job_id,
        first.input_digest,
    )
    assert first.replay is not None
    assert first.replay.state == "dead"


async def test_a_prediction_is_replayed_to_see_whether_it_still_kills(front: Front) -> None:
    files = {"input": png()}
    asked = asyncio.create_task(front.client.post("/v1/models/toy/predict", files=files))
    queue = JobQueue(front.redis, front.options)
    claim = await front.claim()
    await front.worker.release([claim])
    job_id = await kill(queue, front.redis, front.options, claim.job_id)
    assert problem(await asked, 500, "dead_lettered")["attempts"] == 3
    response = await front.client.post(f"{URL}/{job_id}/replay")
    assert response.headers["Location"] == f"{URL}/{job_id}"
    assert response.json()["kind"] == "predict"
    assert response.json()["replay"]["explanation"] is None
    assert await front.worker.finish(await front.begin(), b"r")
    assert (await front.client.get(f"{URL}/{job_id}")).json()["replay"]["state"] == "succeeded"


async def test_what_cannot_be_replayed(redis_url: str) -> None:
    async with running_front(redis_url, queue_depth=1) as front:
        await front.publish()
        job_id = await killed(front)
        url = f"{URL}/{job_id}/replay"
        await front.redis.rename(keys.payload("toy", job_id), "elsewhere")
        document = problem(await front.client.post(url), 409, "not_replayable")
        assert document["id"] == job_id
        assert (await listed(front)).dead_letters[0].replayable_until is None
        await front.redis.rename("elsewhere", keys.payload("toy", job_id))
        await front.post(headers=ASYNC)
        response = await front.client.post(url)
        problem(response, 429, "queue_full")
        assert int(response.headers["Retry-After"]) >= 1
        await front.registry.remove_worker("w1")

        async def nobody() -> bool:
            return (await front.client.post(url)).status_code == 503

        await eventually(nobody)  # the list of workers is half a second old at most
        problem(await front.client.post(url), 503, "no_worker")
        await front.registry.publish_card("tok", b"{}")
        await front.registry.remove_card("toy")
        problem(await front.client.post(url), 404, "model_not_found")
        problem(await front.client.post(f"{URL}/x/replay"), 404, "dead_letter_not_found")


async def test_pages(front: Front) -> None:
    ids = [await killed(front) for _ in range(3)]
    found: list[str] = []
    url: str | None = f"{URL}?limit=2&model=toy"
    while url:
        response = await front.client.get(url)
        found += [one["id"] for one in response.json()["dead_letters"]]
        url = response.links["next"]["url"] if "next" in response.links else None
    assert found == ids[::-1]
    assert (await listed(front, model="another")).dead_letters == ()


async def test_a_list_that_is_the_same_is_not_sent_again(front: Front) -> None:
    await killed(front)
    first = await front.client.get(URL)
    again = await front.client.get(URL, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


async def test_purging(front: Front) -> None:
    first, second, third = [await killed(front) for _ in range(3)]
    for count in (1, 0):
        assert (await front.client.delete(f"{URL}/{first}")).json() == {"purged": count}
    assert (await front.client.delete(URL, params={"model": "other"})).json() == {"purged": 0}
    for count in (2, 0):
        assert (await front.client.delete(URL, params={"model": "toy"})).json() == {"purged": count}
    assert (await listed(front)).dead_letters == ()
    for job_id in (first, second, third):
        problem(await front.client.post(f"{URL}/{job_id}/replay"), 404, "dead_letter_not_found")
        dead = (await front.client.get(f"/v1/explanations/{job_id}")).json()
        assert dead["state"] == "dead"
    await killed(front)
    assert (await front.client.delete(URL)).json() == {"purged": 1}
    await assert_at_rest(front.redis)


@pytest.mark.parametrize("what", ["x", "01JD8Q4V1N0Z7M3K5T9W2XACBE-toy"])
async def test_what_is_no_dead_letter(front: Front, what: str) -> None:
    problem(await front.client.get(f"{URL}/{what}"), 404, "dead_letter_not_found")
    problem(await front.client.post(f"{URL}/{what}/replay"), 404, "dead_letter_not_found")


async def test_a_job_that_lives_is_no_dead_letter(front: Front) -> None:
    job_id = (await front.post(headers=ASYNC)).json()["id"]
    problem(await front.client.get(f"{URL}/{job_id}"), 404, "dead_letter_not_found")
    assert (await front.client.delete(f"{URL}/{job_id}")).json() == {"purged": 0}
    _, tensors = await front.work()
    assert tensors, "its input is still there"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "model=", "model=a/b", "cursor=1", "modl=toy", "limit=1&limit=2"],
)
async def test_a_query_that_means_nothing(front: Front, query: str) -> None:
    problem(await front.client.get(f"{URL}?{query}"), 422, "invalid_request")


async def test_whoever_may_explain_is_not_told_of_others(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    boss = add_key(path, "boss", Scope.ADMIN)
    async with guarded_front(redis_url, path, add_key(path, "someone")) as front:
        for method, url in (("GET", URL), ("GET", f"{URL}/x"), ("DELETE", URL)):
            problem(await front.client.request(method, url), 403, "scope_missing")
        response = await front.client.get(URL, headers={"Authorization": f"Bearer {boss}"})
        assert response.status_code == 200
