"""Which models are resident: on demand, shared loads, a memory budget, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from camserve.contracts.cards import ResolvedCard
from camserve.engine import Explainer
from camserve.errors import InvalidCard, ModelUnavailable
from camserve.settings import Settings
from tests.workers.cards import TINY, settings, write_model
from workers import residency
from workers.models import ResidentModel, declared_card
from workers.repository import Entry, scan
from workers.residency import Residency

pytestmark = pytest.mark.anyio
MB = 1_000_000


@dataclass
class Loads:
    """Stands in for the loading of models: counts, waits, fails as told."""

    sizes: dict[str, int] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self, entry: Entry, _device: str, _settings: Settings) -> ResidentModel:
        self.names.append(entry.name)
        assert self.gate.wait(5)
        if self.failures:
            raise self.failures.pop(0)
        card = declared_card(entry).model_copy(update={"state": "ready"})
        size = self.sizes.get(entry.name, MB)
        return ResidentModel(cast("Explainer", object()), card, size)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads()
    loads.gate.set()
    monkeypatch.setattr(residency, "load_model", loads)
    return loads


@pytest.fixture
def published() -> list[ResolvedCard]:
    return []


@pytest.fixture
def make(tmp_path: Path, loads: Loads, published: list[ResolvedCard]) -> Callable[..., Residency]:
    for name in "abc":
        write_model(tmp_path, name, TINY)

    async def publish(card: ResolvedCard) -> None:
        published.append(card)

    def make(**changes: Any) -> Residency:
        entries = scan(tmp_path).entries
        return Residency(entries, "cpu", settings(**changes), publish)

    return make


async def test_a_load_makes_resident_and_publishes(
    make: Callable[..., Residency], loads: Loads, published: list[ResolvedCard]
) -> None:
    models = make()
    assert models.get("a") is None
    model = await models.load("a")
    assert await models.load("a") is model
    assert models.get("a") is model
    assert loads.names == ["a"]
    assert [(card.name, card.state) for card in published] == [("a", "ready")]
    assert models.resident == ("a",)


async def test_concurrent_callers_share_one_load(
    make: Callable[..., Residency], loads: Loads
) -> None:
    models = make()
    loads.gate.clear()
    waiting = [asyncio.create_task(models.load("a")) for _ in range(5)]
    other = asyncio.create_task(models.load("b"))
    await asyncio.sleep(0)
    assert models.loading == {"a", "b"}
    waiting.pop().cancel()  # who goes away does not take the load along
    loads.gate.set()
    first, *others = await asyncio.gather(*waiting)
    assert all(model is first for model in others)
    await other
    assert sorted(loads.names) == ["a", "b"]
    assert models.loading == frozenset()


async def test_the_least_recently_used_goes_first(
    make: Callable[..., Residency], loads: Loads
) -> None:
    models = make(memory_budget_mb=2)
    await models.load("a")
    await models.load("b")
    assert models.get("a") is not None  # used: now b is the oldest
    await models.load("c")
    assert models.resident == ("a", "c")
    await models.load("b")
    assert models.resident == ("c", "b")
    assert loads.names == ["a", "b", "c", "b"]


async def test_as_many_go_as_must(make: Callable[..., Residency], loads: Loads) -> None:
    loads.sizes = {"a": MB // 2, "b": MB // 2, "c": 2 * MB}
    models = make(memory_budget_mb=2)
    for name in "abc":
        await models.load(name)
    assert models.resident == ("c",)


async def test_a_model_larger_than_the_budget_is_served(
    make: Callable[..., Residency], loads: Loads
) -> None:
    loads.sizes = {"b": 50 * MB}
    models = make(memory_budget_mb=2)
    await models.load("a")
    await models.load("b")
    assert models.resident == ("b",)
    await models.load("a")
    assert models.resident == ("a",)


async def test_a_failure_is_published_and_the_next_demand_tries_again(
    make: Callable[..., Residency], loads: Loads, published: list[ResolvedCard]
) -> None:
    models = make()
    loads.failures = [InvalidCard("no height")]
    with pytest.raises(InvalidCard, match="no height"):
        await models.load("a")
    (card,) = published
    assert (card.state, card.problem and card.problem.detail) == ("unavailable", "no height")
    assert models.resident == ()
    assert models.loading == frozenset()
    await models.load("a")
    assert [card.state for card in published] == ["unavailable", "ready"]


@pytest.mark.parametrize("error", [RuntimeError("CUDA: secret"), TimeoutError(), KeyError("x")])
async def test_whatever_a_load_raises_is_a_model_that_is_unavailable(
    make: Callable[..., Residency], loads: Loads, published: list[ResolvedCard], error: Exception
) -> None:
    models = make()
    loads.failures = [error]
    with pytest.raises(ModelUnavailable, match=type(error).__name__) as refusal:
        await models.load("a")
    assert "the worker's log" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert published[0].state == "unavailable"


async def test_closing_does_not_wait_for_a_load_that_hangs(
    make: Callable[..., Residency], loads: Loads
) -> None:
    models = make()
    loads.gate.clear()
    hanging = asyncio.create_task(models.load("a"))
    await asyncio.sleep(0)
    models.close()
    hanging.cancel()
    loads.gate.set()
