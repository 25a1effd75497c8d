"""The life of a job as one pure function of (state, event).

    queued ──begin──▶ running ──succeed──▶ succeeded
      │                 │ ▲ └── begin (redelivered), cancel (a request): stays running
      │                 │ └──── fail ────▶ failed
      │                 ├────── stop ────▶ canceled   (the cancel request is honoured)
      │                 ├────── give_up ─▶ dead       (no attempts left)
      ├──expire─▶ expired ◀──expire──┘
      └──cancel─▶ canceled

The scripts of `camserve/broker/lua` make the same moves on the server; a test drives every pair
through both.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["TERMINAL", "Event", "State", "transition"]


class State(StrEnum):
    """Where a job is. A terminal state and its result never change."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    DEAD = "dead"


class Event(StrEnum):
    """What can happen to a job."""

    BEGIN = "begin"  # a worker starts it, for the first time or again
    SUCCEED = "succeed"  # its owner commits a result
    FAIL = "fail"  # its owner commits a failure
    CANCEL = "cancel"  # somebody asks to cancel it
    STOP = "stop"  # its cancel request is honoured
    EXPIRE = "expire"  # its deadline passed
    GIVE_UP = "give_up"  # it was begun as often as allowed


TERMINAL = frozenset(State) - {State.QUEUED, State.RUNNING}

_MOVES: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.BEGIN): State.RUNNING,
    (State.QUEUED, Event.CANCEL): State.CANCELED,
    (State.QUEUED, Event.EXPIRE): State.EXPIRED,
    (State.RUNNING, Event.BEGIN): State.RUNNING,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.CANCEL): State.RUNNING,
    (State.RUNNING, Event.STOP): State.CANCELED,
    (State.RUNNING, Event.EXPIRE): State.EXPIRED,
    (State.RUNNING, Event.GIVE_UP): State.DEAD,
}


def transition(state: State, event: Event) -> State:
    """The state after `event`. Raises ValueError where `event` cannot happen in `state`."""
    try:
        return _MOVES[state, event]
    except KeyError:
        raise ValueError(f"a {state} job cannot {event}") from None
