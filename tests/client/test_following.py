"""Server-sent events in pieces, over several connections: nothing is lost, and none comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from camserve.client.calls import Answer, Lost
from camserve.client.errors import NotFound, TimedOut, UnexpectedAnswer, Unreachable
from camserve.client.following import Following
from camserve.client.operations import Send
from camserve.client.retries import Patience, Wait
from camserve.contracts.explanations import Explanation
from tests.client.test_answers import QUEUED, URL, problem

FIRST = Explanation.model_validate(QUEUED)


def event(number: str, state: str, **members: object) -> bytes:
    return f"id: {number}\ndata: {json.dumps(QUEUED | {'state': state} | members)}\n\n".encode()


def following(timeout_s: float = 60.0, reconnect_s: float = 5.0) -> Following:
    return Following(FIRST, Patience(timeout_s, reconnect_s))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_in_pieces(size: int, newline: bytes) -> None:
    stream = b": ping\n\n" + event("1", "queued", queue_position=2) + b": ping\n\n"
    stream += b"retry: 2000\n" + event("2", "running") + event("3", "succeeded")
    follows = following()
    assert isinstance(follows.step(), Send)
    found = [
        one
        for part in pieces(stream.replace(b"\n", newline), size)
        for one in follows.feed(part, URL)
    ]
    assert [one.state for one in found] == ["queued", "running", "succeeded"]
    assert found[0].queue_position == 2
    assert follows.step() is None


def test_the_next_connection_says_what_was_seen() -> None:
    follows = following()
    first = follows.step()
    assert isinstance(first, Send)
    assert "Last-Event-ID" not in first.call.request_headers()
    assert list(follows.feed(event("17", "running") + b"id: 18\ndata: {", URL))
    follows.lost(Lost(httpx.ReadError("cut"), URL))
    assert isinstance(follows.step(), Wait)
    second = follows.step()
    assert isinstance(second, Send)
    assert second.call.request_headers()["Last-Event-ID"] == "17"
    assert [one.state for one in follows.feed(event("18", "failed"), URL)] == ["failed"]
    assert follows.step() is None


def test_a_stream_that_ends_too_early_is_not_asked_again_at_once() -> None:
    follows = following(reconnect_s=1)
    steps = []

    def ask() -> None:
        while True:
            steps.append(follows.step())
            if isinstance(steps[-1], Send):
                follows.ended(URL)

    with pytest.raises(Unreachable, match="ended too early"):
        ask()
    waits = [step.seconds for step in steps if isinstance(step, Wait)]
    assert 2 <= len(waits) <= 5


def test_answers_that_are_no_stream() -> None:
    gone = following()
    gone.answered(Answer(204, httpx.Headers(), b"", URL))
    assert gone.step() is None
    with pytest.raises(NotFound):
        following().answered(problem(404, "explanation_not_found"))
    with pytest.raises(UnexpectedAnswer):
        list(following().feed(b"data: nonsense\n\n", URL))


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"s": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: now["s"])
    follows = following(timeout_s=10)
    step = follows.step()
    assert isinstance(step, Send)
    assert step.timeout_s == 10
    now["s"] = 10.0
    with pytest.raises(TimedOut) as caught:
        follows.step()
    assert caught.value.explanation_id == "ID-toy"
