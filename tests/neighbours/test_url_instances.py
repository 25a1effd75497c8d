"""Instances by their address, where the operator allows it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.app.front import Front, png, running_front
from tests.app.outbound.web_server import WebServer, answer
from tests.neighbours.calls import EXPLAIN_V1, error

pytestmark = pytest.mark.anyio


async def test_an_address_is_the_picture_that_is_there(redis_url: str, web: WebServer) -> None:
    web.pages |= {"/cat.png": answer(png())}
    url = web.url("/cat.png")
    async with running_front(redis_url, fetch_hosts=(web.entry,)) as front:
        await front.publish()
        _, _, expected = await front.done(front.post())
        for instance in ({"image_url": url}, {"url": url}, {"image": {"url": url}}):
            asked = front.client.post(EXPLAIN_V1, json={"instances": [instance]})
            response, _, tensors = await front.done(asked)
            assert response.json()["explanations"][0]["input_name"] == "cat.png"
            assert np.array_equal(tensors["input.0"], expected["input.0"])
        gone = {"instances": [{"url": url}, {"url": web.url("/dog.png")}]}
        document = error(await front.client.post(EXPLAIN_V1, json=gone), 422, "url_unreachable")
        assert document["input"] == 1


async def test_addresses_are_off_by_default(front: Front) -> None:
    body = {"instances": [{"url": "http://example.com/cat.png"}]}
    response = await front.client.post(EXPLAIN_V1, json=body)
    document = error(response, 422, "url_not_allowed")
    assert "CAMSERVE_FETCH_HOSTS" in document["error"]
