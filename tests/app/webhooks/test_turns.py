"""Places of receivers that answer, and of those that do not."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.webhooks.turns import Turns


def granted(turns: Turns, receiver: str, count: int) -> int:
    """How many of so many places at once it gets."""
    with ExitStack() as places:
        return sum(places.enter_context(turns.taken(receiver)) for _ in range(count))


@pytest.mark.parametrize(("places", "few"), [(16, 4), (4, 1), (1, 1)])
def test_who_is_silent_has_few_places_until_it_answers(places: int, few: int) -> None:
    turns = Turns(places)
    assert granted(turns, "a", places) == places
    turns.note("a", is_silent=True)
    assert [granted(turns, one, places) for one in ("a", "b", "a")] == [few, places, few]
    turns.note("a", is_silent=False)
    assert granted(turns, "a", places) == places


def test_those_who_fell_silent_last_are_remembered() -> None:
    """Their number is not ours to choose where any host may be told."""
    turns = Turns(4)
    for number in range(1002):
        turns.note(str(number), is_silent=True)
    turns.note("2", is_silent=True)
    turns.note("new", is_silent=True)
    assert [granted(turns, one, 4) for one in ("0", "1", "2", "3", "4", "new")] == [
        4,
        4,
        1,
        4,
        1,
        1,
    ]
