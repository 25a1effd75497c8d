"""What the client does when the way to the service is bad: one explanation, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from camserve.client import AsyncClient, Busy, Client, UnexpectedAnswer, Unreachable, Wait
from tests.client.faulty_proxy import FaultyProxy, faulty_proxy
from tests.service import ROOT, Service, free_port

SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart.png"


@pytest.fixture
def proxy(service: Service) -> Iterator[FaultyProxy]:
    with faulty_proxy(service.url) as running:
        yield running


def posts(proxy: FaultyProxy) -> list[str]:
    """The idempotency keys of what was posted."""
    return [one.headers["Idempotency-Key"] for one in proxy.seen if one.method == "POST"]


def test_every_fault_is_tried_again_and_one_explanation_is_made(proxy: FaultyProxy) -> None:
    proxy.faults = ["cut", "busy", "unavailable", "gateway", "lost answer", "lost answer"]
    with Client(proxy.url) as client:
        explanation = client.explain(SAMPLE, model="shapes")
    made = [one.answer["id"] for one in proxy.seen if one.answer]
    assert len(made) == 3  # twice the service had done it, and the answer was lost
    assert set(made) == {explanation.id}
    assert len(posts(proxy)) == 7
    assert len(set(posts(proxy))) == 1


def test_two_calls_are_two_explanations(proxy: FaultyProxy) -> None:
    with Client(proxy.url) as client:
        one = client.explain(SAMPLE, model="shapes")
        other = client.explain(SAMPLE, model="shapes")
        same = client.explain(SAMPLE, model="shapes", idempotency_key=posts(proxy)[0])
    assert one.id != other.id
    assert same.id == one.id


def test_the_service_says_when_to_come_again(proxy: FaultyProxy) -> None:
    proxy.faults, proxy.retry_after = ["busy"], "1"
    waits: list[Wait] = []
    started_s = time.monotonic()
    with Client(proxy.url, on_wait=waits.append) as client:
        client.explain(SAMPLE, model="shapes")
    assert len(waits) == 1
    assert 1 <= waits[0].seconds <= 1.25
    assert waits[0].reason == "later"
    assert time.monotonic() - started_s >= 1


def test_a_wait_that_is_longer_than_the_call_may_take_is_not_begun(proxy: FaultyProxy) -> None:
    proxy.faults, proxy.retry_after = ["busy"], "3600"
    with Client(proxy.url) as client, pytest.raises(Busy, match="later") as caught:
        client.explain(SAMPLE, model="shapes", timeout_s=20)
    assert (caught.value.code, caught.value.status) == ("queue_full", 429)
    assert len(proxy.seen) == 1


def test_a_date_says_when_to_come_again(proxy: FaultyProxy) -> None:
    proxy.faults, proxy.retry_after = ["unavailable"], "Wed, 21 Oct 2015 07:28:00 GMT"
    with Client(proxy.url) as client:
        assert client.models()
    assert len(proxy.seen) == 2


def test_the_results_are_fetched_again_too(proxy: FaultyProxy) -> None:
    with Client(proxy.url) as client:
        result = client.explain(SAMPLE, model="shapes").results[0]
        expected = result.map()
        proxy.faults = ["lost answer", "unavailable"]
        assert np.array_equal(result.map(), expected)
        proxy.faults = ["cut", "gateway"]
        assert result.overlay().startswith(b"\x89PNG")


def test_a_refused_request_is_not_repeated(proxy: FaultyProxy) -> None:
    with Client(proxy.url) as client, pytest.raises(Exception, match="no model 'shaps'"):
        client.explain(SAMPLE, model="shaps")
    assert len(proxy.seen) == 1


def test_what_only_a_person_can_mend_is_not_waited_for(proxy: FaultyProxy) -> None:
    with Client(proxy.url) as client, pytest.raises(Exception, match="hub cannot be reached") as e:
        client.explain(SAMPLE, model="resnet50")
    assert type(e.value).__name__ == "Unavailable"
    assert len(proxy.seen) == 1


def test_a_gateway_without_a_service_is_given_up(proxy: FaultyProxy) -> None:
    proxy.faults = ["gateway"] * 100
    with (
        Client(proxy.url, reconnect_s=3) as client,
        pytest.raises(UnexpectedAnswer, match=r"answered 502 and no problem document.*Bad Gateway"),
    ):
        client.models()
    assert 2 <= len(proxy.seen) <= 10


def test_nobody_answers() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    waits: list[Wait] = []
    with (
        Client(url, reconnect_s=3, on_wait=waits.append) as client,
        pytest.raises(Unreachable, match=f"no camserve answers at {url}/ .*is it running there"),
    ):
        client.models()
    assert 2 <= len(waits) <= 9
    assert sum(wait.seconds for wait in waits) <= 3


def test_what_is_followed_survives_the_connection(proxy: FaultyProxy) -> None:
    with Client(proxy.url) as client:
        explanation = client.submit(SAMPLE, model="shapes")
        proxy.faults = ["cut", "unavailable", "gateway", "lost answer"]
        assert [one.state for one in explanation.follow()][-1] == "succeeded"
        assert explanation.results
    follows = [one for one in proxy.seen if one.path.endswith("/events")]
    assert len(follows) == 5


def test_a_prediction_is_repeated(proxy: FaultyProxy) -> None:
    proxy.faults = ["busy", "lost answer"]
    with Client(proxy.url) as client:
        assert client.predict(SAMPLE, model="shapes").results
    assert len(proxy.seen) == 3


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(proxy: FaultyProxy) -> None:
    proxy.faults = ["cut", "busy", "lost answer", "gateway"]
    async with AsyncClient(proxy.url) as client:
        explanation = await client.explain(SAMPLE, model="shapes")
        values = await explanation.results[0].map()
    assert {one.answer["id"] for one in proxy.seen if one.answer} == {explanation.id}
    assert len(set(posts(proxy))) == 1
    assert values.shape == (384, 384)
