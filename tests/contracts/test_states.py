"""The state machine, pair by pair."""

from __future__ import annotations

from itertools import product

import pytest

from camserve.contracts.states import TERMINAL, Event, State, transition

LEGAL = {
    ("queued", "begin"): "running",
    ("queued", "cancel"): "canceled",
    ("queued", "expire"): "expired",
    ("running", "begin"): "running",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "cancel"): "running",
    ("running", "stop"): "canceled",
    ("running", "expire"): "expired",
    ("running", "give_up"): "dead",
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair(state: State, event: Event):
    if (state, event) in LEGAL:
        assert transition(state, event) == LEGAL[state, event]
    else:
        with pytest.raises(ValueError, match=f"a {state} job cannot {event}"):
            transition(state, event)


def test_terminal_states_are_final_and_the_others_are_not():
    assert {"succeeded", "failed", "canceled", "expired", "dead"} == TERMINAL
    left = {state for state, _ in LEGAL}
    assert left == set(State) - TERMINAL
