"""The field `webhook` of a request: off by default, by the same rules as every URL."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.app.front import Front, png, problem
from tests.app.outbound.web_server import WebServer
from tests.app.webhooks.inbox import Inbox, hooked_front

pytestmark = pytest.mark.anyio
PATH = "/v1/explanations"
ASYNC = {"Prefer": "respond-async"}


async def test_off_by_default(front: Front) -> None:
    refused = problem(
        await front.post(params={"webhook": "https://hooks.example.com/"}), 422, "url_not_allowed"
    )
    assert (refused["rule"], refused["field"]) == ("off", "webhook")
    assert "CAMSERVE_WEBHOOK_HOSTS" in refused["detail"]


@pytest.mark.parametrize(
    ("webhook", "code", "rule"),
    [
        ("http://other.test/", "url_not_allowed", "host"),
        ("http://169.254.169.254/", "url_not_allowed", "host"),
        ("http://127.0.0.1:1/", "url_not_allowed", "port"),
        ("https://127.0.0.1:{port}/", "url_not_allowed", "scheme"),
        ("http://a@127.0.0.1:{port}/", "invalid_request", None),
        ("http://2130706433:{port}/", "invalid_request", None),
        ("hooks.example.com", "invalid_request", None),
        ("", "invalid_request", None),
        ("http://127.0.0.1:{port}/" + "x" * 2048, "invalid_request", None),
    ],
)
async def test_where_none_may_go(
    redis_url: str, receiver: WebServer, webhook: str, code: str, rule: str | None
) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        url = webhook.format(port=receiver.port)
        refused = problem(await front.post(params={"webhook": url}), 422, code)
    assert refused.get("rule") == rule
    assert refused["field"] == "webhook"


async def test_in_every_body(redis_url: str, receiver: WebServer) -> None:
    import base64

    inbox = Inbox(receiver)
    picture = {"image": {"base64": base64.b64encode(png()).decode()}}
    document = {"model": "toy", "inputs": [picture], "webhook": inbox.url}
    file = ("x.png", png(), "image/png")
    bodies: list[dict[str, Any]] = [
        {"json": document},
        {"data": {"model": "toy", "webhook": inbox.url}, "files": {"input": file}},
        {"files": {"request": (None, json.dumps(document))}},
        {"params": {"model": "toy", "webhook": inbox.url}, "content": png()},
    ]
    async with hooked_front(redis_url, inbox) as front:
        for body in bodies:
            response = await front.client.post(PATH, headers=ASYNC, **body)
            assert response.status_code == 202, response.text
            await front.work()
            assert (await inbox.next()).event["data"]["id"] == response.json()["id"]


async def test_without_one_there_is_none(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        response, _, _ = await front.done(front.post())
    assert response.json()["webhook"] is None
    assert receiver.asked == []


async def test_predictions_have_none(redis_url: str, receiver: WebServer) -> None:
    inbox = Inbox(receiver)
    async with hooked_front(redis_url, inbox) as front:
        response = await front.client.post(
            "/v1/models/toy/predict", params={"webhook": inbox.url}, content=png()
        )
        assert "unknown field 'webhook'" in problem(response, 422, "invalid_request")["detail"]
