"""The client's work, step by step, and without I/O.

An operation is a generator: it yields what is to be done next, gets the outcome, and returns its
result. A transport (`transports.py`) does the steps, and nothing else.
"""

from __future__ import annotations

import io
import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from pydantic import BaseModel

from camserve.client import calls
from camserve.client.answers import error_in, message
from camserve.client.calls import Answer, Call, Lost
from camserve.client.errors import ExplanationFailed, TimedOut, UnexpectedAnswer
from camserve.client.pictures import Picture
from camserve.client.retries import Budget, Patience, Retries, Wait, unreachable
from camserve.contracts.explanations import Explanation
from camserve.contracts.states import TERMINAL, State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Operation",
    "Outcome",
    "Send",
    "Step",
    "array",
    "content",
    "explained",
    "image",
    "message_of",
    "submitted",
    "waited",
]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

HOLD_S: Final = 20  # proxies cut connections that are silent for longer
FIRST_LOOK_S: Final = 0.1
LONGEST_LOOK_S: Final = 2.0


@dataclass(frozen=True)
class Send:
    """Send a call; nothing for `timeout_s` is a lost one."""

    call: Call
    timeout_s: float


Step: TypeAlias = Send | Wait
Outcome: TypeAlias = Answer | Lost | None
Operation: TypeAlias = Generator[Step, Outcome, T]


def answered(call: Call, patience: Patience, budget: Budget) -> Operation[Answer]:
    """The answer to a call, which is repeated as `Retries` says. Raises ClientError."""
    retries = Retries(patience)
    while True:
        hold_s = min(call.wait_s or 0, max(math.floor(budget.left_s) - 1, 0))
        outcome = yield Send(
            call if call.wait_s is None else call.held_for(hold_s),
            min(budget.left_s, hold_s + call.answer_s),
        )
        if outcome is None:
            raise TypeError("whoever sends says what came of it")
        if call.is_answer_if_503 and isinstance(outcome, Answer) and _is_json_of_503(outcome):
            return outcome
        wait = retries.after(outcome)
        if wait is None or wait.seconds > budget.left_s:
            break
        yield wait
    if isinstance(outcome, Answer):
        if error := error_in(outcome):
            raise error
        return outcome
    if budget.left_s == 0:
        raise TimedOut(f"no answer of {outcome.url} within {budget.seconds:g} s")
    raise unreachable(outcome)


def _is_json_of_503(answer: Answer) -> bool:
    return answer.status == 503 and answer.media_type == calls.JSON


def message_of(kind: type[M], call: Call, patience: Patience) -> Operation[M]:
    """A call that is answered at once."""
    answer = yield from answered(call, patience, Budget(patience.timeout_s))
    return message(kind, answer)


def submitted(call: Call, patience: Patience) -> Operation[Explanation]:
    """The explanation, accepted and not waited for."""
    return (yield from message_of(Explanation, call.held_for(0), patience))


def explained(call: Call, patience: Patience) -> Operation[Explanation]:
    """The explanation with its results. Raises ClientError, ExplanationFailed among them."""
    budget = Budget(patience.timeout_s)
    answer = yield from answered(call.held_for(HOLD_S), patience, budget)
    return (yield from _finished(message(Explanation, answer), patience, budget))


def waited(explanation: Explanation, patience: Patience) -> Operation[Explanation]:
    """An explanation that was accepted earlier, once it is finished. Raises as `explained`."""
    return (yield from _finished(explanation, patience, Budget(patience.timeout_s)))


def _finished(
    explanation: Explanation, patience: Patience, budget: Budget
) -> Operation[Explanation]:
    pause_s = FIRST_LOOK_S
    while explanation.state not in TERMINAL:
        if budget.left_s == 0:
            raise TimedOut(
                f"explanation {explanation.id} is still {explanation.state} after "
                f"{budget.seconds:g} s: it goes on, and can be fetched later",
                explanation.id,
            )
        yield Wait(min(pause_s, budget.left_s), f"it is {explanation.state}")
        pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)
        call = calls.get("explanations", explanation.id)
        # a last look at the end of the time
        answer = yield from answered(call, patience, Budget(max(budget.left_s, 1.0)))
        explanation = message(Explanation, answer)
    if explanation.state is not State.SUCCEEDED:
        raise _failure_of(explanation)
    return explanation


def _failure_of(explanation: Explanation) -> ExplanationFailed:
    failure = explanation.error
    if failure is None:
        return ExplanationFailed({"code": explanation.state, "explanation": explanation.href})
    return ExplanationFailed(
        {
            "explanation": explanation.href,
            "detail": failure.detail,
            **failure.extensions,
            "code": failure.extensions.get("code", failure.code),
        }
    )


def content(call: Call, patience: Patience) -> Operation[bytes]:
    """The file that is the answer."""
    return (yield from answered(call, patience, Budget(patience.timeout_s))).body


def array(call: Call, patience: Patience) -> Operation[NDArray[np.floating]]:
    """The array of a `.npy` answer."""
    import numpy as np  # noqa: PLC0415 - only who asks for an array needs it

    answer = yield from answered(call, patience, Budget(patience.timeout_s))
    try:
        made: Any = np.load(io.BytesIO(answer.body), allow_pickle=False)
    except ValueError as error:
        raise UnexpectedAnswer(f"{answer.url} answered no .npy file: {error}") from error
    return made  # type: ignore[no-any-return]


def image(call: Call, patience: Patience) -> Operation[Picture]:
    """The picture of an answer."""
    answer = yield from answered(call, patience, Budget(patience.timeout_s))
    return Picture(answer.body, answer.headers.get("content-type", ""))
