"""Webhooks through the whole front end: every end, every fault, at least once and mostly once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from camserve.broker import keys
from camserve.contracts.failures import FailureMessage
from camserve.contracts.webhooks import WebhookEvent
from camserve.errors import ErrorCode
from tests.app.front import Front
from tests.app.outbound.web_server import WebServer, web_server
from tests.app.webhooks.inbox import Inbox, hooked_front
from tests.broker.jobs import assert_at_rest, eventually
from tests.service import free_port

pytestmark = pytest.mark.anyio
ASYNC = {"Prefer": "respond-async"}


async def asked(front: Front, inbox: Inbox | str, **params: Any) -> str:
    url = inbox if isinstance(inbox, str) else inbox.url
    response = await front.post(params={"webhook": url, **params}, headers=ASYNC)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


async def read(front: Front, job_id: str) -> dict[str, Any]:
    return dict((await front.client.get(f"/v1/explanations/{job_id}")).json())


async def settled(front: Front, job_id: str, state: str = "delivered") -> dict[str, Any]:
    """The explanation once its webhook is."""

    async def look() -> Any:
        found = await read(front, job_id)
        return found if found["webhook"]["state"] == state else None

    return dict(await eventually(look))


async def succeed(front: Front, job_id: str) -> str:
    await front.work()
    return "succeeded"


async def fail(front: Front, job_id: str) -> str:
    failure = FailureMessage(code=ErrorCode.NOT_EXPLAINABLE, detail="no such layer")
    await front.worker.fail(await front.begin(), failure.model_dump_json().encode())
    return "failed"


async def cancel(front: Front, job_id: str) -> str:
    await front.client.delete(f"/v1/explanations/{job_id}")
    return "canceled"


async def expire(front: Front, job_id: str) -> str:
    await front.redis.hset(keys.job("toy", job_id), "deadline_ms", 0)
    return "expired"  # the front end's own reaper sees to it


async def die(front: Front, job_id: str) -> str:
    await front.redis.hset(keys.job("toy", job_id), "attempts", 99)
    claim = await front.claim()
    assert await front.worker.begin(claim) is None
    return "dead"


@pytest.mark.parametrize("end", [succeed, fail, cancel, expire, die], ids=lambda one: one.__name__)
async def test_every_end_is_told(redis_url: str, receiver: WebServer, end: Any) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        job_id = await asked(front, inbox)
        open_one = await read(front, job_id)
        assert open_one["webhook"] == {
            "state": "pending",
            "attempts": 0,
            "next_attempt_at": None,
            "status": None,
            "error": None,
        }
        state = await end(front, job_id)
        received = await inbox.next()
        now = await settled(front, job_id)
        await assert_at_rest(front.redis)
    assert received.id == f"msg_{job_id.removesuffix('-toy')}"
    assert received.event["type"] == f"explanation.{state}"
    assert received.event["timestamp"] == now["completed_at"]
    assert received.event["data"] == now | {"webhook": None}
    WebhookEvent.model_validate(received.event)
    assert now["webhook"] == {
        "state": "delivered",
        "attempts": 1,
        "next_attempt_at": None,
        "status": 204,
        "error": None,
    }
    assert len(receiver.asked) == 1


async def test_maps_are_links_whatever_the_request_asked_for(
    redis_url: str, receiver: WebServer
) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        await asked(front, inbox, map="list")
        await front.work()
        (result,) = (await inbox.next()).event["data"]["results"]
    assert "data" not in result["map"]
    assert result["map"]["href"].endswith("/map")


async def test_a_receiver_that_fails_twice_gets_the_same_message_again(
    redis_url: str, receiver: WebServer
) -> None:
    inbox = Inbox(receiver, answers=[500, 302])
    async with hooked_front(redis_url, inbox) as front:
        job_id = await asked(front, inbox)
        await front.work()
        messages = [await inbox.next() for _ in range(3)]
        now = await settled(front, job_id)
    assert messages[0] == messages[1] == messages[2]
    assert now["webhook"]["attempts"] == 3
    assert (now["webhook"]["status"], now["webhook"]["error"]) == (204, None)


async def test_between_attempts_the_explanation_says_why(
    redis_url: str, receiver: WebServer
) -> None:
    inbox = Inbox(receiver, answers=[503])
    async with hooked_front(redis_url, inbox, webhook_retry_s=1000) as front:
        job_id = await asked(front, inbox)
        await front.work()

        async def tried() -> Any:
            found = (await read(front, job_id))["webhook"]
            return found if found["attempts"] else None

        now = await eventually(tried)
    assert (now["state"], now["status"]) == ("pending", 503)
    assert now["error"] == "the receiver answered 503"
    assert now["next_attempt_at"] > "2026"


async def test_a_receiver_that_is_dead_is_given_up(redis_url: str, receiver: WebServer) -> None:
    inbox, port = Inbox(receiver), free_port()
    hosts = (f"http://127.0.0.1:{port}",)
    async with hooked_front(redis_url, inbox, webhook_hosts=hosts, webhook_attempts=3) as front:
        job_id = await asked(front, f"http://127.0.0.1:{port}/")
        await front.work()
        now = await settled(front, job_id, "failed")
        await assert_at_rest(front.redis)
    assert now["webhook"]["attempts"] == 3
    assert now["webhook"]["error"] == "127.0.0.1 refused the connection"
    assert now["state"] == "succeeded"


async def test_gone_means_no_more(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver, answers=[410])
    async with hooked_front(redis_url, inbox) as front:
        job_id = await asked(front, inbox)
        await front.work()
        now = await settled(front, job_id, "failed")
    assert (now["webhook"]["attempts"], now["webhook"]["status"]) == (1, 410)


async def test_a_slow_receiver_holds_up_nobody(redis_url: str, receiver: WebServer) -> None:
    async def silent(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    inbox = Inbox(receiver)
    receiver.pages["/silent"] = silent
    async with hooked_front(
        redis_url, inbox, webhook_timeout_s=0.5, webhook_attempts=1, webhook_connections=2
    ) as front:
        slow = await asked(front, receiver.url("/silent"))
        await front.work()
        quick = [await asked(front, inbox) for _ in range(4)]
        for _ in quick:
            await front.work()
        for _ in quick:
            await inbox.next()
        assert (await settled(front, slow, "failed"))["webhook"]["error"] == (
            "127.0.0.1 did not answer in 0.5 s"
        )


async def test_many_for_a_slow_receiver_hold_up_nobody(redis_url: str, receiver: WebServer) -> None:
    """Once it has let all places run out of time, others have most of them."""
    async with web_server() as slow:

        async def silent(_: asyncio.StreamWriter) -> None:
            await asyncio.sleep(30)

        slow.pages["/"] = silent
        inbox, hosts = Inbox(receiver), (receiver.entry, slow.entry)
        async with hooked_front(
            redis_url,
            inbox,
            webhook_hosts=hosts,
            webhook_timeout_s=0.5,
            webhook_attempts=1,
            webhook_connections=4,
        ) as front:
            ids = [await asked(front, slow.url("/")) for _ in range(12)]
            for _ in ids:
                await front.work()

            async def known() -> bool:
                return len(slow.asked) > 4

            await eventually(known)
            quick = await asked(front, inbox)
            await front.work()
            before = len(slow.asked)
            await inbox.next()
            assert len(slow.asked) <= before + 1
            await settled(front, quick)
            for job_id in ids:  # each has its turn
                await settled(front, job_id, "failed")
            assert len(slow.asked) == 12
            await assert_at_rest(front.redis)


async def test_no_more_at_once_than_set(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver, hold=asyncio.Event())
    assert inbox.hold is not None
    async with hooked_front(redis_url, inbox, webhook_connections=2) as front:
        ids = [await asked(front, inbox) for _ in range(5)]
        for _ in ids:
            await front.work()
        for _ in range(2):
            await inbox.next()
        assert receiver.connections == 2
        hashes = [await front.redis.hgetall(keys.job("toy", one)) for one in ids]
        assert sum(b"delivery_token" in values for values in hashes) == 2
        inbox.hold.set()
        for job_id in ids:
            await settled(front, job_id)
    assert len(receiver.asked) == 5


async def test_what_ends_makes_room_for_the_next_at_once(
    redis_url: str, receiver: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.webhooks.dispatcher.LOOK_S", 100.0)
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox, webhook_connections=1) as front:
        ids = [await asked(front, inbox) for _ in range(5)]
        for job_id in ids:
            await cancel(front, job_id)
        for job_id in ids:
            await settled(front, job_id)


async def test_two_front_ends_tell_once(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front, hooked_front(redis_url, inbox) as other:
        ids = [await asked(one, inbox) for one in (front, other) * 10]
        for _ in ids:
            await front.work()
        for job_id in ids:
            await settled(other, job_id)
    assert len(receiver.asked) == len(ids)


async def test_a_repeated_request_is_told_once(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        headers = {**ASYNC, "Idempotency-Key": "k"}
        one, two = [
            (await front.post(params={"webhook": inbox.url}, headers=headers)).json()["id"]
            for _ in range(2)
        ]
        assert one == two
        await front.work()
        await settled(front, one)
        elsewhere = await front.post(params={"webhook": f"{inbox.url}?other"}, headers=headers)
        assert elsewhere.status_code == 409
    assert len(receiver.asked) == 1


async def test_a_front_end_that_stops_hands_over(redis_url: str, receiver: WebServer) -> None:
    """At once, and not when its lease ends: that is after the patience of this test."""
    inbox = Inbox(receiver, hold=asyncio.Event())
    assert inbox.hold is not None
    async with hooked_front(redis_url, inbox, lease_s=1000) as front:
        job_id = await asked(front, inbox)
        await front.work()
        first = await inbox.next()
    inbox.hold.set()
    async with hooked_front(redis_url, inbox, lease_s=1000) as other:
        assert await inbox.next() == first
        now = await settled(other, job_id)
    assert now["webhook"]["attempts"] == 1


async def test_a_front_end_that_stops_notes_what_is_done(
    redis_url: str, receiver: WebServer
) -> None:
    """The answer comes while it stops: within the moment that it has left."""
    inbox = Inbox(receiver, hold=asyncio.Event())
    assert inbox.hold is not None
    async with hooked_front(redis_url, inbox) as front:
        job_id = await asked(front, inbox)
        await front.work()
        await inbox.next()
        asyncio.get_running_loop().call_later(0.1, inbox.hold.set)
    async with hooked_front(redis_url, inbox) as other:
        assert (await read(other, job_id))["webhook"]["state"] == "delivered"
    assert len(receiver.asked) == 1


async def test_a_result_that_is_gone_is_given_up(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver, answers=[500] * 9)
    async with hooked_front(redis_url, inbox, webhook_retry_s=0.3) as front:
        job_id = await asked(front, inbox)
        await front.work()
        await inbox.next()
        await front.redis.delete(keys.result("toy", job_id))

        async def given_up() -> Any:
            record = await front.redis.hget(keys.job("toy", job_id), "delivery")
            return record == b"failed"

        await eventually(given_up)
