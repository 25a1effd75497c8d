"""Answers of other versions, of other services, and of nobody: read, or refused in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.problems import STATUS
from camserve.client import (
    Busy,
    ExplanationFailed,
    ProblemError,
    Refused,
    ServiceFault,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    answers,
    calls,
    operations,
)
from camserve.client.calls import Answer, Call, Lost
from camserve.client.inputs import Inputs
from camserve.client.operations import Send
from camserve.client.retries import Patience, Wait
from camserve.contracts.explanations import Explanation, ModelList, ServedCard
from camserve.errors import ErrorCode

URL = httpx.URL("http://there:8000/v1/models")
NOW = datetime(2030, 1, 1, tzinfo=UTC).isoformat()
QUEUED = {
    "id": "ID-toy",
    "state": "queued",
    "model": "toy",
    "model_version": "1",
    "created_at": NOW,
    "deadline_at": NOW,
    "attempts": 0,
    "href": "/v1/explanations/ID-toy",
    "events": {"href": "/v1/explanations/ID-toy/events"},
}


def answer(
    document: Any, status: int = 200, kind: str = "application/json", **headers: str
) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    sent = {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
    return Answer(status, httpx.Headers(sent), body, URL)


def problem(status: int, code: str, **members: Any) -> Answer:
    document = {"type": f"/problems/{code}", "code": code, "detail": "no.", "status": status}
    return answer(document | members, status, "application/problem+json")


class Played:
    """An operation, run with answers that are given; `sent` and `waited_s` are what it asked for.
    Its clock stands still but for the waits."""

    def __init__(self, outcomes: Callable[[Call], Answer | Lost]) -> None:
        self.outcomes = outcomes
        self.sent: list[Send] = []
        self.waits: list[Wait] = []

    def run(self, operation: Any, clock: dict[str, float]) -> Any:
        outcome = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as done:
                return done.value
            if isinstance(step, Wait):
                self.waits.append(step)
                clock["s"] += step.seconds
                outcome = None
            else:
                self.sent.append(step)
                outcome = self.outcomes(step.call)
                if isinstance(outcome, Lost):
                    clock["s"] += step.timeout_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1000.0}
    monkeypatch.setattr("time.monotonic", lambda: now["s"])
    return now


def test_members_of_tomorrow_are_passed_over() -> None:
    model = {
        "name": "toy",
        "title": "",
        "description": "",
        "task": "classification",
        "state": "ready",
        "ready": True,
        "workers": 1,
        "href": "/v1/models/toy",
        "colour": "blue",
        "input": {"kind": "picture", "height": 8, "width": 8, "flavour": 3},
    }
    read = answers.message(ModelList, answer({"models": [model], "next": None}))
    assert read.models[0].name == "toy"
    assert read.models[0].input is not None


def test_a_failure_of_tomorrow_is_internal_and_keeps_its_code() -> None:
    failed = QUEUED | {
        "state": "failed",
        "error": {"code": "eclipse", "detail": "dark.", "extensions": {"moon": 1}},
    }
    read = answers.message(Explanation, answer(failed))
    assert read.error is not None
    assert read.error.code is ErrorCode.INTERNAL
    assert read.error.extensions == {"moon": 1, "code": "eclipse"}
    with pytest.raises(ExplanationFailed, match="dark") as caught:
        Played(lambda _: answer(failed)).run(operations.waited(read, Patience()), {"s": 0})
    assert caught.value.code == "eclipse"
    assert caught.value.explanation_id == "ID-toy"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answer(b"<html>hello</html>", kind="text/html"), "not JSON: '<html>hello"),
        (answer({"models": 3}), "models: "),
        (answer([1]), "cannot read"),
        (answer({"models": [{}]}), r"models.0.name: Field required"),
    ],
)
def test_what_is_no_answer_of_ours(given: Answer, message: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=message):
        answers.message(ModelList, given)


def test_a_redirect_and_an_error_of_somebody_else() -> None:
    moved = answers.error_in(answer(b"", 307, location="https://there/"))
    assert isinstance(moved, UnexpectedAnswer)
    assert "redirects to https://there/" in str(moved)
    foreign = answers.error_in(answer(b"<p>Forbidden", 403, "text/html"))
    assert isinstance(foreign, UnexpectedAnswer)
    assert "403" in str(foreign)
    assert "Forbidden" in str(foreign)


@pytest.mark.parametrize("code", ErrorCode)
def test_each_problem_has_its_family(code: ErrorCode) -> None:
    status = STATUS[code]
    error = answers.error_in(problem(status, code, request_id="r1", limit=3))
    assert isinstance(error, ProblemError)
    assert (error.code, error.status, error.request_id) == (code, status, "r1")
    assert error.extensions == {"limit": 3}
    assert error.href == f"http://there:8000/problems/{code}"
    expected = {429: Busy, 500: ServiceFault, 503: Unavailable, 504: ExplanationFailed}
    assert isinstance(error, expected.get(status, Refused))


def test_problems_with_a_key_and_of_an_explanation() -> None:
    assert isinstance(answers.error_in(problem(401, "unauthorized")), Unauthorized)
    failed = answers.error_in(problem(422, "not_explainable", explanation="/v1/explanations/X"))
    assert isinstance(failed, ExplanationFailed)
    assert failed.explanation_id == "X"


def test_a_202_is_followed_to_its_end(clock: dict[str, float]) -> None:
    states = iter(["queued", "running", "running", "succeeded"])

    def outcomes(call: Call) -> Answer:
        if call.method == "POST":
            return answer(QUEUED, 202)
        return answer(QUEUED | {"state": next(states)})

    played = Played(outcomes)
    call = calls.explain(Inputs(), None, {"model": "toy"}, None)
    done = played.run(operations.explained(call, Patience()), clock)
    assert done.state == "succeeded"
    assert [one.call.path for one in played.sent[1:]] == ["/v1/explanations/ID-toy"] * 4
    assert played.sent[0].call.request_headers()["Prefer"] == "wait=20"
    pauses = [wait.seconds for wait in played.waits]
    assert pauses == sorted(pauses)


def test_the_time_of_a_call_bounds_all_of_it(clock: dict[str, float]) -> None:
    played = Played(lambda call: answer(QUEUED, 202 if call.method == "POST" else 200))
    call = calls.explain(Inputs(), None, {"model": "toy"}, None)
    with pytest.raises(TimedOut, match="still queued after 7 s") as caught:
        played.run(operations.explained(call, Patience(timeout_s=7)), clock)
    assert caught.value.explanation_id == "ID-toy"
    assert clock["s"] == pytest.approx(1007)
    assert played.sent[0].call.request_headers()["Prefer"] == "wait=6"  # and a second to answer


def test_a_card_comes_with_503_too(clock: dict[str, float]) -> None:
    card = {"name": "toy", "version": "1", "state": "unavailable", "source": "", "ready": False}
    script = iter([answer(b"no upstream", 503, "text/plain"), answer(card, 503)])
    played = Played(lambda _: next(script))
    found = played.run(operations.message_of(ServedCard, calls.card("toy"), Patience()), clock)
    assert not found.ready
    assert len(played.sent) == 2


def test_a_silent_service_uses_up_the_time(clock: dict[str, float]) -> None:
    played = Played(lambda _: Lost(httpx.ReadTimeout(""), URL))
    with pytest.raises(TimedOut, match="within 3 s"):
        played.run(operations.message_of(ModelList, calls.get("models"), Patience(3, 3)), clock)
    assert len(played.sent) == 1


def test_reconnecting_is_bounded_and_begins_anew_after_an_answer(clock: dict[str, float]) -> None:
    lost, busy = Lost(httpx.ConnectError("refused"), URL), problem(503, "queue_unavailable")
    busy.headers["Retry-After"] = "2"
    script = iter([lost, lost, busy, lost, lost, lost, *[lost] * 100])

    def outcomes(_: Call) -> Answer | Lost:
        outcome = next(script)
        clock["s"] -= played.sent[-1].timeout_s if isinstance(outcome, Lost) else 0  # at once
        return outcome

    played = Played(outcomes)
    with pytest.raises(Unreachable, match="refused"):
        played.run(operations.message_of(ModelList, calls.get("models"), Patience(60, 1)), clock)
    reasons = ["later" if wait.seconds >= 2 else "lost" for wait in played.waits]
    assert reasons[:3] == ["lost", "lost", "later"]
    assert 3 <= reasons[3:].count("lost") <= 5
    assert sum(wait.seconds for wait in played.waits[3:]) <= 1


def test_links_that_lead_elsewhere_are_not_followed() -> None:
    for href in ("https://elsewhere/map", "//elsewhere/map", "map"):
        with pytest.raises(UnexpectedAnswer, match="leads elsewhere"):
            calls.file(href, calls.NPY, {})
        with pytest.raises(UnexpectedAnswer, match="leads elsewhere"):
            calls.picture(href, "png", {})
    kept = calls.picture("/a/overlay?view=contour&size=64&token=a%2Fb%3D", "png", {"size": 8})
    assert kept.path == "/a/overlay?view=contour&size=8&token=a%2Fb%3D"
