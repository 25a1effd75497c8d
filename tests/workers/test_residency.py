"""Which models are resident: on demand, shared loads, a memory budget, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import pytest
import torch

from camserve.broker import Totals, connect
from camserve.contracts.cards import ResolvedCard
from camserve.engine import Explainer
from camserve.errors import (
    InvalidCard,
    ModelLoading,
    ModelNotFound,
    ModelQuarantined,
    ModelUnavailable,
)
from camserve.settings import Settings
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from workers import loading, residency
from workers.metrics import WorkerMetrics
from workers.models import ResidentModel, declared_card
from workers.quarantine import Quarantine
from workers.repository import Entry, Repository, scan
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
    now: int = 0
    most: int = 0
    """How many at once."""

    def __call__(
        self, entry: Entry, _device: str, _settings: Settings, room: Callable[[float], None]
    ) -> ResidentModel:
        self.names.append(entry.name)
        self.now += 1
        self.most = max(self.now, self.most)
        assert self.gate.wait(60)
        self.now -= 1
        if self.failures:
            raise self.failures.pop(0)
        card = declared_card(entry).model_copy(update={"state": "ready"})
        size = self.sizes.get(entry.name, MB)
        room(size)
        return ResidentModel(cast("Explainer", object()), card, size)


class Observed(Residency):
    """The repository is what `Upkeep` changes."""

    def __init__(self, repository: Repository, *arguments: Any, **named: Any) -> None:
        super().__init__(repository, *arguments, **named)
        self.repository = repository


def rewritten(models: Path, name: str) -> Entry:
    """The entry of the folder, with another card."""
    (models / name / "card.toml").write_text(factory_card(seed=1))
    return entry_of(models / name)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a thread brings it about
            await asyncio.sleep(0.002)


def is_loading() -> bool:
    """Whether there is a thread that loads, or has loaded, a model."""
    return any(thread.name.startswith("load_") for thread in threading.enumerate())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads()
    loads.gate.set()
    monkeypatch.setattr(loading, "load_model", loads)
    return loads


@pytest.fixture
def published() -> list[ResolvedCard]:
    return []


@pytest.fixture
def make(tmp_path: Path, loads: Loads, published: list[ResolvedCard]) -> Callable[..., Observed]:
    for name in "abc":
        write_model(tmp_path, name, TINY)

    async def publish(card: ResolvedCard) -> None:
        published.append(card)

    def make(suspects: Mapping[str, bool] = MappingProxyType({}), **changes: Any) -> Observed:
        repository = scan(tmp_path)
        quarantine = Quarantine(tmp_path / "loads", tmp_path, worker="w1", device="cpu")
        for name, quarantined in suspects.items():
            quarantine.convict(repository.entries[name], "its load outlasted the limit")
            if not quarantined:
                quarantine.lift(repository.entries[name])
        metrics = WorkerMetrics(Totals(connect("unix://nowhere")), "cpu")
        return Observed(
            repository, "cpu", settings(**changes), publish, quarantine, metrics=metrics
        )

    return make


async def test_a_load_makes_resident_and_publishes(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard]
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
    make: Callable[..., Observed], loads: Loads
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
    make: Callable[..., Observed], loads: Loads
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


async def test_as_many_go_as_must(make: Callable[..., Observed], loads: Loads) -> None:
    loads.sizes = {"a": MB // 2, "b": MB // 2, "c": 2 * MB}
    models = make(memory_budget_mb=2)
    for name in "abc":
        await models.load(name)
    assert models.resident == ("c",)


async def test_a_model_larger_than_the_budget_is_served(
    make: Callable[..., Observed], loads: Loads
) -> None:
    loads.sizes = {"b": 50 * MB}
    models = make(memory_budget_mb=2)
    await models.load("a")
    await models.load("b")
    assert models.resident == ("b",)
    await models.load("a")
    assert models.resident == ("a",)


async def test_a_failure_is_published_and_the_next_demand_tries_again(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard]
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
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard], error: Exception
) -> None:
    models = make()
    loads.failures = [error]
    with pytest.raises(ModelUnavailable, match=type(error).__name__) as refusal:
        await models.load("a")
    assert "the worker's log" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert published[0].state == "unavailable"


async def test_a_load_leaves_no_thread_behind(make: Callable[..., Observed], loads: Loads) -> None:
    """Its OpenMP team would slow down all that is computed afterwards."""
    loads.gate.clear()
    task = asyncio.create_task(make().load("a"))
    await eventually(lambda: loads.names == ["a"])
    assert is_loading()
    loads.gate.set()
    await task
    await eventually(lambda: not is_loading())


async def test_an_update_takes_the_place_of_what_works(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard], tmp_path: Path
) -> None:
    models = make()
    first = await models.load("a")
    models.repository.entries["a"] = rewritten(tmp_path, "a")
    assert await models.load("a") is first, "what works is enough"
    loads.gate.clear()
    updating = asyncio.create_task(models.update("a"))
    await asyncio.sleep(0)
    assert (models.get("a"), models.loading) == (first, frozenset())
    loads.gate.set()
    second = await updating
    assert models.get("a") is second
    assert [card.version for card in published] == [first.card.version, second.card.version]


async def test_what_fails_leaves_what_works(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard], tmp_path: Path
) -> None:
    models = make()
    first = await models.load("a")
    models.repository.entries["a"] = entry = rewritten(tmp_path, "a")
    loads.failures = [InvalidCard("no height")]
    with pytest.raises(InvalidCard, match="no height"):
        await models.update("a")
    assert models.get("a") is first
    card = published[-1]
    assert (card.state, card.version) == ("ready", first.card.version)
    assert card.failed_update is not None
    assert (card.failed_update.version, card.failed_update.problem.detail) == (
        entry.version, "no height",
    )  # fmt: skip
    assert published[-1].failed_update == models.failed_update("a")
    assert (await models.update("a")).card.version == entry.version
    assert models.failed_update("a") is None


@pytest.mark.parametrize("fails", [True, False])
async def test_what_changes_while_it_is_loaded_is_loaded_as_it_is_then(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard], tmp_path: Path,
    *, fails: bool,
) -> None:  # fmt: skip
    models = make()
    loads.gate.clear()
    loads.failures = [InvalidCard("of the version before")] if fails else []
    loading = asyncio.create_task(models.load("a"))
    await eventually(lambda: loads.names == ["a"])
    models.repository.entries["a"] = entry = rewritten(tmp_path, "a")
    loads.gate.set()
    assert (await loading).card.version == entry.version
    assert [card.version for card in published] == [entry.version]


async def test_what_is_gone_while_it_is_loaded_is_not_taken_in(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard]
) -> None:
    models = make()
    loads.gate.clear()
    loading = asyncio.create_task(models.load("a"))
    await eventually(lambda: loads.names == ["a"])
    del models.repository.entries["a"]
    loads.gate.set()
    with pytest.raises(ModelNotFound):
        await loading
    assert (models.resident, published) == ((), [])


async def test_files_that_change_while_they_are_read_are_of_no_version(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard], tmp_path: Path
) -> None:
    models = make()
    loads.gate.clear()
    loading = asyncio.create_task(models.load("a"))
    await eventually(lambda: loads.names == ["a"])
    rewritten(tmp_path, "a")
    loads.gate.set()
    with pytest.raises(ModelLoading, match="being changed"):
        await loading
    assert (models.resident, published) == ((), [])


async def test_a_suspect_is_loaded_while_nothing_else_is(
    make: Callable[..., Observed], loads: Loads, tmp_path: Path
) -> None:
    models = make(suspects={"b": False})
    loads.gate.clear()
    loading = [asyncio.create_task(models.load(name)) for name in "abc"]
    await eventually(lambda: loads.names == ["a"])
    loads.gate.set()
    await asyncio.gather(*loading)
    assert loads.names == ["a", "b", "c"]
    assert loads.most == 1
    assert not list((tmp_path / "loads").glob("*.suspect")), "it was loaded, and all is well"


async def test_what_is_quarantined_is_not_loaded(
    make: Callable[..., Observed], loads: Loads, published: list[ResolvedCard]
) -> None:
    models = make(suspects={"b": True})
    with pytest.raises(ModelQuarantined, match="outlasted"):
        await models.load("b")
    assert loads.names == []
    (card,) = published
    assert card.problem is not None
    assert (card.state, card.problem.code) == ("unavailable", "model_quarantined")
    await models.load("a")


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_a_load_that_hangs_ends_the_process_and_is_known(
    make: Callable[..., Observed],
    loads: Loads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: str,
) -> None:
    """Of two that hang, one may wait for the other: then nobody is to blame yet."""

    def die(_doing: str, model: str) -> NoReturn:
        raise SystemError(model)

    monkeypatch.setattr(residency, "die_hung", die)
    models = make(load_time_limit_s=0.2)
    loads.gate.clear()
    loading = [asyncio.create_task(models.load(name)) for name in names]
    await eventually(lambda: len(loads.names) == len(names))
    with pytest.raises(SystemError, match=names[0]):
        await loading[0]
    held = Quarantine(tmp_path / "loads", tmp_path, worker="w2", device="cpu")
    problem = held.problem(models.repository.entries["a"])
    assert (problem is not None) == (names == "a")
    if problem is not None:
        assert "its load outlasted CAMSERVE_LOAD_TIME_LIMIT_S (0.2 s)" in str(problem)
    loads.gate.set()
    await asyncio.gather(*loading, return_exceptions=True)
    await eventually(lambda: not is_loading())  # a process that lives has threads left


async def test_a_device_that_is_fuller_than_expected_is_emptied(
    make: Callable[..., Observed], loads: Loads
) -> None:
    models = make()
    await models.load("a")
    loads.failures = [torch.OutOfMemoryError("CUDA out of memory")]
    await models.load("b")
    assert models.resident == ("b",)
    loads.failures = [torch.OutOfMemoryError("CUDA out of memory")] * 2
    with pytest.raises(ModelUnavailable, match="does not fit into the memory of cpu"):
        await models.load("c")
