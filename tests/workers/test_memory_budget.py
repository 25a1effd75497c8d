"""The memory budget, with models of known size: properties of every order of loads and uses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camserve.contracts.cards import ResolvedCard
from camserve.engine import Explainer
from workers.models import ResidentModel
from workers.resident_models import ResidentModels

BUDGET = 10
NAMES = "abcdef"

SIZES = st.fixed_dictionaries({name: st.integers(1, 14) for name in NAMES})
STEPS = st.lists(
    st.tuples(st.sampled_from(["load", "use", "begin", "end", "let go"]), st.sampled_from(NAMES)),
    max_size=40,
)


def model(name: str, size: int) -> ResidentModel:
    card = ResolvedCard(name=name, version="v", state="ready", source="")
    return ResidentModel(cast("Explainer", object()), card, size)


class Device:
    """Plays jobs and loads on `ResidentModels`, and counts for itself what memory that takes."""

    def __init__(self, sizes: dict[str, int], for_good: frozenset[str]) -> None:
        self.sizes = sizes
        self.for_good = for_good
        self.evicted: list[str] = []
        self.models = ResidentModels(BUDGET, for_good.__contains__, self.evicted.extend)
        self.jobs: list[tuple[str, ResidentModel, contextlib.AbstractContextManager[None]]] = []
        self.last_used: list[str] = []

    @property
    def in_memory(self) -> list[ResidentModel]:
        """What is resident or used by a job, each once."""
        resident = [self.models.look_at(name) for name in self.models.names]
        held = {id(one): one for one in [*resident, *(job[1] for job in self.jobs)] if one}
        return list(held.values())

    async def load(self, name: str) -> None:
        """As a worker loads: make room while jobs go on, take in."""
        if self.models.use(name) is None:
            before, busy = self.models.names, {job[0] for job in self.jobs}
            size = self.sizes[name]
            room = asyncio.ensure_future(self.models.make_room(size, keep=name))
            await settled()
            self.check_order(before, busy, size, name)
            while not room.done():  # it waits for jobs that have begun, and for no others
                assert self.jobs, "nothing can end this wait"
                await self.end(self.jobs[0][0])
            self.check_room(size, name)
            self.models.put(model(name, size))
        self.touch(name)

    def check_order(self, before: tuple[str, ...], busy: set[str], size: int, keep: str) -> None:
        """The idle go before the busy, in either the least recently used, and no more than must."""
        gone = [name for name in before if name not in self.models.names]
        line = [name for name in before if name != keep and name not in self.for_good]
        line.sort(key=lambda name: (name in busy, self.last_used.index(name)))
        assert gone == [name for name in before if name in line[: len(gone)]]
        assert not self.for_good & set(gone)
        if gone:
            left = sum(self.sizes[name] for name in self.models.names)
            assert left + self.sizes[line[len(gone) - 1]] + size > BUDGET

    def check_room(self, size: int, keep: str) -> None:
        used = sum(one.bytes for one in self.in_memory)
        assert self.models.bytes == used
        must_stay = {*self.models.names} & {*self.for_good, keep}
        assert used + size <= BUDGET or {*self.models.names} <= must_stay

    def begin(self, name: str) -> None:
        one = self.models.use(name)
        if one is not None:
            self.touch(name)
            use = self.models.in_use(name)
            use.__enter__()
            self.jobs.append((name, one, use))

    async def end(self, name: str) -> None:
        for job in self.jobs:
            if job[0] == name:
                self.jobs.remove(job)
                job[2].__exit__(None, None, None)
                break
        await settled()

    def touch(self, name: str) -> None:
        self.last_used = [*(one for one in self.last_used if one != name), name]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def play(
    sizes: dict[str, int], steps: list[tuple[str, str]], for_good: frozenset[str]
) -> None:
    device = Device(sizes, for_good)
    for what, name in steps:
        match what:
            case "load":
                await device.load(name)
            case "use":
                if device.models.use(name):
                    device.touch(name)
            case "begin":
                device.begin(name)
            case "end":
                await device.end(name)
            case "let go":
                device.models.let_go(name)
        assert device.models.bytes == sum(one.bytes for one in device.in_memory)
        assert list(device.models.names) == [
            one for one in device.last_used if one in device.models.names
        ]


@given(sizes=SIZES, steps=STEPS, for_good=st.frozensets(st.sampled_from(NAMES), max_size=2))
def test_the_budget_holds_whatever_happens(
    sizes: dict[str, int], steps: list[tuple[str, str]], for_good: frozenset[str]
) -> None:
    asyncio.run(play(sizes, steps, for_good))


@pytest.mark.anyio
async def test_both_versions_count_while_one_replaces_the_other() -> None:
    models = ResidentModels(BUDGET, lambda _: False, lambda _: None)
    for name, size in (("a", 4), ("b", 4)):
        models.put(model(name, size))
    with models.in_use("a"):
        await models.make_room(4, keep="a")
        assert models.names == ("a",), "for a moment there are two of a: b makes room"
        assert models.put(model("a", 4))
        assert models.bytes == 8, "a job still has the one before"
    assert models.bytes == 4


@pytest.mark.anyio
async def test_what_is_used_is_waited_for() -> None:
    models = ResidentModels(BUDGET, lambda _: False, lambda _: None)
    models.put(model("a", 8))
    with models.in_use("a"):
        room = asyncio.create_task(models.make_room(8, keep="b"))
        await settled()
        assert models.names == ()
        assert not room.done(), "its memory is not free yet"
        with models.in_use("a"):  # a job that came later has it loaded anew, and is not waited for
            later = asyncio.create_task(models.unused("a"))
            await settled()
    await room
    await later
