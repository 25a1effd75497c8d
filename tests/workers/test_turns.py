"""Several at once, or one alone."""

from __future__ import annotations

import asyncio

import pytest

from workers.turns import Turns

pytestmark = pytest.mark.anyio


class Visit:
    """Somebody who takes a turn, and leaves when told to."""

    def __init__(self, turns: Turns, *, alone: bool = False) -> None:
        self.entered, self.left = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._go(turns, alone=alone))

    async def _go(self, turns: Turns, *, alone: bool) -> None:
        async with turns.turn(alone=alone):
            self.entered.set()
            await self.left.wait()

    async def leave(self) -> None:
        self.left.set()
        await self.task


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_so_many_go_side_by_side() -> None:
    turns = Turns(2)
    visits = [Visit(turns) for _ in range(3)]
    await settled()
    assert [one.entered.is_set() for one in visits] == [True, True, False]
    assert turns.going == 2
    await visits[1].leave()
    await visits[2].entered.wait()
    for one in visits:
        await one.leave()
    assert turns.going == 0


async def test_who_must_be_alone_is_and_is_not_passed_over() -> None:
    turns = Turns(4)
    first, alone, second, third = (
        Visit(turns), Visit(turns, alone=True), Visit(turns), Visit(turns, alone=True),
    )  # fmt: skip
    await settled()
    assert [v.entered.is_set() for v in (first, alone, second)] == [True, False, False]
    await first.leave()
    await settled()
    assert [v.entered.is_set() for v in (alone, second, third)] == [True, False, False]
    assert turns.going == 1
    await alone.leave()
    await settled()
    assert [v.entered.is_set() for v in (second, third)] == [True, False]
    await second.leave()
    await third.entered.wait()
    await third.leave()


@pytest.mark.parametrize("alone", [True, False])
async def test_who_gives_up_is_forgotten(alone: bool) -> None:
    turns = Turns(1)
    first, second, third = Visit(turns), Visit(turns, alone=alone), Visit(turns)
    await settled()
    second.task.cancel()
    await settled()
    first.task.cancel()
    await third.entered.wait()
    await third.leave()
    assert turns.going == 0


async def test_who_gives_up_at_the_door_leaves_it_open() -> None:
    turns = Turns(1)
    first, second, third = Visit(turns), Visit(turns, alone=True), Visit(turns)
    await settled()
    first.left.set()
    await asyncio.sleep(0)  # the second is let in by this, and does not know yet
    second.task.cancel()
    await third.entered.wait()
    await third.leave()
    assert turns.going == 0
