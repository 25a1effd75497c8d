"""Server-sent events of an explanation, without I/O: what to ask for next, and what came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx

from camserve.client.answers import error_in, message
from camserve.client.calls import Answer, Call, Lost
from camserve.client.errors import TimedOut
from camserve.client.operations import Send, Step
from camserve.client.retries import Budget, Patience, Retries, unreachable
from camserve.contracts.explanations import Explanation
from camserve.contracts.states import TERMINAL

__all__ = ["OK", "Following"]

SILENCE_S: Final = 40.0  # of a service that says every 15 s that it is still there
OK: Final = 200
_NOTHING_MORE: Final = 204


class Following:
    """The stream of one explanation, through all its connections.

    A transport asks for the next `step`, and tells what became of a `Send`: the parts of a stream
    (`feed`), its end (`ended`), an answer that is none (`answered`), or its loss (`lost`).
    """

    def __init__(self, explanation: Explanation, patience: Patience) -> None:
        self._id = explanation.id
        self._patience = patience
        self._budget = Budget(patience.timeout_s)
        self._retries = Retries(patience)
        self._pause: Step | None = None
        self._over = False
        self._seen: str | None = None
        self._rest = b""

    def step(self) -> Step | None:
        """What is to be done next; None if nothing more will come. Raises TimedOut."""
        if self._over:
            return None
        if self._budget.left_s == 0:
            raise TimedOut(
                f"explanation {self._id} is not finished after {self._budget.seconds:g} s: it goes "
                "on, and can be fetched later",
                self._id,
            )
        if self._pause is not None:
            pause, self._pause = self._pause, None
            return pause
        headers = {"Last-Event-ID": self._seen} if self._seen else {}
        call = Call(
            "GET",
            f"/v1/explanations/{self._id}/events",
            accept="text/event-stream",
            headers=headers,
        )
        self._rest = b""
        return Send(call, min(SILENCE_S, self._budget.left_s))

    def feed(self, part: bytes, url: httpx.URL) -> Iterator[Explanation]:
        """The explanations in the next bytes of a stream. Raises UnexpectedAnswer."""
        self._retries = Retries(self._patience)  # the service is there
        *events, self._rest = (self._rest + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            fields = [line.partition(b":") for line in event.split(b"\n")]
            values = {
                name: [v.removeprefix(b" ") for key, _, v in fields if key == name]
                for name in (b"data", b"id")
            }
            if not values[b"data"]:
                continue  # a comment, which keeps the connection alive
            body = b"\n".join(values[b"data"])
            found = message(Explanation, Answer(OK, httpx.Headers(), body, url))
            if values[b"id"]:
                self._seen = values[b"id"][-1].decode()
            self._over = found.state in TERMINAL
            yield found

    def answered(self, answer: Answer) -> None:
        """Something else than a stream. Raises the error that it is, unless that may pass."""
        if answer.status == _NOTHING_MORE:
            self._over = True
            return
        self._again(answer)

    def lost(self, lost: Lost) -> None:
        """The connection. Raises Unreachable if that was once too often."""
        self._again(lost)

    def ended(self, url: httpx.URL) -> None:
        """The stream, with its last event, or because the service stops."""
        if not self._over:
            self._again(Lost(httpx.ReadError("the events ended too early"), url))

    def _again(self, outcome: Answer | Lost) -> None:
        wait = self._retries.after(outcome)
        if wait is not None and wait.seconds <= self._budget.left_s:
            self._pause = wait
        elif isinstance(outcome, Lost):
            raise unreachable(outcome)
        elif error := error_in(outcome):
            raise error
