"""A worker whose model repository changes while it runs: new, other, broken and removed folders."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import keys
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.states import State
from camserve.errors import ModelUnavailable, QueueUnavailable
from tests.workers import jobs
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, noise
from workers import loop as loop_module
from workers.models import load_model
from workers.watch import Change

pytestmark = pytest.mark.anyio

OTHER = factory_card(seed=1)
"""As `tiny`, with other weights."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "LOOK_S", 0.05)


def rewrite(models: Path, name: str, card: str) -> str:
    """Put another card into the folder, at once; returns the version that this makes."""
    written = models / name / "card.new"
    written.write_text(card)
    written.rename(models / name / "card.toml")
    return entry_of(models / name).version


async def version_of(bench: Bench, model: str = "tiny") -> str:
    """What computes a job now."""
    return (await bench.answer(await enqueue(bench.queue, noise(0), model=model)))[0].model_version


async def card_that(
    bench: Bench, model: str, condition: Callable[[ResolvedCard], bool]
) -> ResolvedCard:
    async def look() -> ResolvedCard | None:
        card = await bench.card(model)
        return card if card and condition(card) else None

    found = await eventually(look)
    assert isinstance(found, ResolvedCard)
    return found


async def status_that(
    bench: Bench, condition: Callable[[WorkerStatus], bool]
) -> Awaitable[None] | None:
    async def look() -> bool:
        status = await bench.status()
        return status is not None and condition(status)

    return await eventually(look)


async def refusal(bench: Bench, job_id: str) -> dict[str, Any]:
    record = await bench.done(job_id)
    assert record.state is State.FAILED, record.state
    return jobs.failure(record)


async def test_a_new_folder_is_served(start: Start, models: Path) -> None:
    bench = await start()
    await version_of(bench)
    write_model(models, "new", OTHER)
    card = await card_that(bench, "new", lambda _: True)
    assert (card.state, card.version) == ("declared", entry_of(models / "new").version)
    assert await version_of(bench, "new") == card.version
    await status_that(bench, lambda one: {"new", "tiny"} <= set(one.models) & set(one.resident))


async def test_a_new_folder_is_loaded_as_at_start(start: Start, models: Path) -> None:
    bench = await start(preload="local")
    write_model(models, "new", OTHER)
    await card_that(bench, "new", lambda card: card.state == "ready")
    await status_that(bench, lambda one: "new" in one.resident)


async def test_a_folder_that_is_gone_is_let_go_of(start: Start, models: Path, redis: Redis) -> None:
    bench = await start()
    await version_of(bench)
    resident = bench.loop._residency.get("tiny")
    assert resident is not None
    network = weakref.ref(resident.explainer.model)
    del resident
    shutil.rmtree(models / "tiny")

    async def gone() -> bool:
        return await bench.card("tiny") is None and network() is None

    await eventually(gone)
    await status_that(bench, lambda one: "tiny" not in {*one.models, *one.resident})
    late = await refusal(
        bench, await enqueue(bench.queue, noise(1))
    )  # of a front end that was late
    assert (late["code"], "'tiny'" in late["detail"]) == ("model_not_found", True)
    write_model(models, "tiny", OTHER)
    await card_that(bench, "tiny", lambda _: True)
    assert await version_of(bench) == entry_of(models / "tiny").version


async def test_jobs_that_wait_when_their_folder_goes_are_answered(
    start: Start, models: Path, tmp_path: Path
) -> None:
    bench = await start(max_batch=1)
    await version_of(bench, "slow")  # resident: nothing is claimed beside what runs
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    waiting = [await enqueue(bench.queue, noise(i), model="slow") for i in (1, 2)]
    shutil.rmtree(models / "slow")
    await status_that(bench, lambda one: "slow" not in one.models)
    (tmp_path / "go").touch()
    await bench.answer(running)
    for job_id in waiting:
        assert (await refusal(bench, job_id))["code"] == "model_not_found"


async def test_what_another_worker_still_has_is_left_to_it(
    start: Start, models: Path, redis: Redis
) -> None:
    """A host has a repository of its own."""
    bench = await start()
    await bench.registry.heartbeat(
        "w9", WorkerStatus(worker="w9", host="", pid=1, device="", models=("tiny",))
        .model_dump_json().encode(),
    )  # fmt: skip
    shutil.rmtree(models / "tiny")
    await status_that(bench, lambda one: "tiny" not in one.models)
    for _ in range(3):  # its heartbeats let the card be
        before = (await bench.registry.worker_records())["w1"].at_ms

        async def beaten(before: int = before) -> bool:
            return (await bench.registry.worker_records())["w1"].at_ms > before

        await eventually(beaten)
    assert await bench.card("tiny") is not None
    job_id = await enqueue(bench.queue, noise(0))
    await bench.registry.remove_worker("w9")  # and now nobody has it
    assert (await refusal(bench, job_id))["code"] == "model_not_found"

    async def gone() -> bool:
        return await bench.card("tiny") is None

    await eventually(gone)


async def test_other_files_are_another_version(start: Start, models: Path) -> None:
    bench = await start()
    first = await version_of(bench)
    second = rewrite(models, "tiny", OTHER)
    assert first != second
    card = await card_that(bench, "tiny", lambda card: card.version == second)
    assert card.state == "ready", "loaded, before it is published"
    assert await version_of(bench) == second


async def test_the_working_version_serves_until_the_new_one_does(
    start: Start, models: Path, tmp_path: Path
) -> None:
    """What runs ends with the version it began with, and what comes waits for no load."""
    bench = await start(max_batch=1)
    first = await version_of(bench, "slow")
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    gate = tmp_path / "gate"
    gate.mkdir()
    second = rewrite(models, "slow", factory_card("gated", folder=str(gate)))
    await eventually(lambda: asyncio.to_thread(lambda: list(gate.glob("entered-*"))))
    (tmp_path / "go").touch()
    assert (await bench.answer(running))[0].model_version == first
    assert await version_of(bench, "slow") == first
    card = await bench.card("slow")
    assert card is not None
    assert (card.state, card.version, card.failed_update) == ("ready", first, None)
    (gate / "go").touch()
    await card_that(bench, "slow", lambda card: card.version == second)
    assert await version_of(bench, "slow") == second


async def test_a_batch_under_way_ends_with_the_version_it_began_with(
    start: Start, models: Path, tmp_path: Path
) -> None:
    bench = await start()
    first = await version_of(bench, "slow")
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    second = rewrite(models, "slow", OTHER)
    await card_that(bench, "slow", lambda card: card.version == second)
    assert await bench.job_is(running, State.RUNNING)
    (tmp_path / "go").touch()
    assert (await bench.answer(running))[0].model_version == first
    assert await version_of(bench, "slow") == second


async def test_what_changes_again_before_the_version_before_it_is_out_of_use(
    start: Start, models: Path, tmp_path: Path
) -> None:
    bench = await start()
    first = await version_of(bench, "slow")
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    second = rewrite(models, "slow", OTHER)
    await card_that(bench, "slow", lambda card: card.version == second)
    third = rewrite(models, "slow", factory_card(seed=2))

    async def is_noticed() -> bool:
        return bench.loop._repository.entries["slow"].version == third

    await eventually(is_noticed)
    assert await bench.job_is(running, State.RUNNING)
    (tmp_path / "go").touch()
    assert (await bench.answer(running))[0].model_version == first
    await card_that(bench, "slow", lambda card: card.version == third)
    assert await version_of(bench, "slow") == third


@pytest.mark.parametrize("error", [QueueUnavailable(), AssertionError("a bug")])
async def test_no_change_is_lost_with_another_one(
    start: Start, models: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bench = await start()
    upkeep, taken = bench.loop._upkeep, list[str]()
    take_over = upkeep._take_over

    async def failing_once(change: Change) -> None:
        taken.append(change.name)
        if len(taken) == 1:
            raise error
        await take_over(change)

    monkeypatch.setattr(upkeep, "_take_over", failing_once)
    # one look sees both
    entries = [entry_of(write_model(models, name, OTHER)) for name in ("new", "newer")]
    changes = iter([[Change(entry.name, entry) for entry in entries]])
    monkeypatch.setattr(upkeep._watch, "look", lambda: next(changes, []))
    await version_of(bench, "newer")
    again = isinstance(error, QueueUnavailable)
    assert taken == (["new", "new", "newer"] if again else ["new", "newer"])


@pytest.mark.parametrize(
    ("card", "code", "reason"),
    [
        (factory_card("raising"), "model_unavailable", "the disk is full"),
        (factory_card("no_module"), "invalid_card", "did not return a torch.nn.Module"),
        (factory_card(head='labels = ["one"]'), "invalid_card", "1 labels"),
        ("source = ", "invalid_card", "card.toml"),
    ],
)
async def test_a_version_that_fails_leaves_the_one_before_it(
    start: Start, models: Path, card: str, code: str, reason: str
) -> None:
    bench = await start()
    first = await version_of(bench)
    folder = models / "tiny"
    (folder / "card.toml").write_text(card)
    broken = "" if card == "source = " else entry_of(folder).version
    told = await card_that(bench, "tiny", lambda one: one.failed_update is not None)
    assert (told.state, told.version, told.problem) == ("ready", first, None)
    assert told.failed_update is not None
    assert told.failed_update.version == broken
    assert told.failed_update.problem.code == code
    assert reason in told.failed_update.problem.detail
    assert await version_of(bench) == first
    # whoever asks for a load of what works is told the same
    record = await bench.done(await jobs.load_job(bench.queue, "tiny"))
    assert record.state is State.SUCCEEDED
    assert (await bench.card("tiny")) == told
    third = rewrite(models, "tiny", OTHER)
    mended = await card_that(bench, "tiny", lambda one: one.version == third)
    assert (mended.state, mended.failed_update) == ("ready", None)
    assert await version_of(bench) == third


async def test_a_mistake_that_is_taken_back(start: Start, models: Path) -> None:
    bench = await start()
    first = await version_of(bench)
    rewrite(models, "tiny", factory_card("raising"))
    await card_that(bench, "tiny", lambda one: one.failed_update is not None)
    assert rewrite(models, "tiny", TINY) == first
    card = await card_that(bench, "tiny", lambda one: one.failed_update is None)
    assert (card.state, card.version) == ("ready", first)


async def test_a_version_that_cannot_come_back_makes_room_for_none(
    start: Start, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start(memory_budget_mb=1)
    monkeypatch.setattr(bench.loop._residency._models, "_budget_bytes", 1)
    first = await version_of(bench)
    (models / "tiny" / "card.toml").write_text("source = ")
    await card_that(bench, "tiny", lambda one: one.failed_update is not None)
    await version_of(bench, "slow")
    assert await version_of(bench) == first
    write_model(models, "third", OTHER)
    await card_that(bench, "third", lambda _: True)
    await version_of(bench, "third")
    assert bench.loop._residency.resident == ("tiny", "third"), "of others, the room is one"


async def test_an_unload_ends_a_version_that_cannot_come_back(start: Start, models: Path) -> None:
    bench = await start()
    await version_of(bench)
    rewrite(models, "tiny", factory_card("raising"))
    await card_that(bench, "tiny", lambda one: one.failed_update is not None)
    await bench.loop._residency.unload("tiny")
    card = await card_that(bench, "tiny", lambda one: one.state == "unavailable")
    assert card.problem is not None
    assert card.problem.code == "model_unavailable"
    assert (await refusal(bench, await enqueue(bench.queue, noise(0))))["code"] == card.problem.code


async def test_a_folder_that_is_broken_at_first_is_tried_again_when_it_changes(
    start: Start, models: Path
) -> None:
    write_model(models, "late", "source = ")
    bench = await start()
    await card_that(bench, "late", lambda one: one.state == "unavailable")
    refused = await refusal(bench, await enqueue(bench.queue, noise(0), model="late"))
    assert refused["code"] == "invalid_card"
    version = rewrite(models, "late", factory_card("raising"))
    await card_that(bench, "late", lambda one: one.version == version)
    refused = await refusal(bench, await enqueue(bench.queue, noise(0), model="late"))
    assert refused["code"] == "model_unavailable"
    rewrite(models, "late", OTHER)
    await card_that(bench, "late", lambda one: one.state == "declared")
    await version_of(bench, "late")
    assert await bench.state("late") == "ready"


async def test_an_update_that_a_hub_held_up_is_tried_again_by_itself(
    start: Start, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for it: an older version is served."""
    bench = await start(retry_load_s=0.01)
    await version_of(bench)
    away = [True]
    load = bench.loop._residency._load_version

    async def flaky(entry: Any) -> Any:
        if away and entry.card.title == "hub":
            raise ModelUnavailable("the hub is away")
        return await load(entry)

    monkeypatch.setattr(bench.loop._residency, "_load_version", flaky)
    second = rewrite(models, "tiny", f'title = "hub"\n{TINY}')
    await card_that(bench, "tiny", lambda one: one.failed_update is not None)
    away.clear()
    card = await card_that(bench, "tiny", lambda one: one.version == second)
    assert card.failed_update is None


async def test_files_that_change_before_anybody_has_looked(
    start: Start, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded is what the version says, or nothing."""
    monkeypatch.setattr(loop_module, "LOOK_S", 3600)
    bench = await start()
    await card_that(bench, "tiny", lambda one: one.state == "declared")
    before = await bench.card("tiny")
    rewrite(models, "tiny", OTHER)
    refused = await refusal(bench, await enqueue(bench.queue, noise(0)))
    assert refused["code"] == "model_loading"
    assert refused["extensions"]["retry_after_s"] > 0
    assert await bench.card("tiny") == before, "it is not broken for that"


async def test_a_failure_here_hides_nothing_that_works_elsewhere(
    start: Start, models: Path, redis: Redis
) -> None:
    """Jobs go to the worker that can do them, and come here once it is gone."""
    write_model(models, "picky", factory_card("raising"))
    bench = await start()
    entry = entry_of(models / "picky")
    ready = ResolvedCard(
        name="picky", version=entry.version, state="ready", source=entry.card.source
    )
    other = WorkerStatus(worker="w9", host="", pid=1, device="", models=("picky",))
    await bench.registry.heartbeat("w9", other.model_dump_json().encode())
    await bench.registry.publish_card("picky", ready.model_dump_json().encode())
    await refusal(bench, await enqueue(bench.queue, noise(0), model="picky"))
    await status_that(bench, lambda one: one.unavailable == ("picky",))
    assert await bench.card("picky") == ready

    async def left() -> bool:
        return bench.loop._presence.withheld == {"picky"}

    await eventually(left)
    # a claim that was under way may still take one
    for _ in range(2):
        job_id = await enqueue(bench.queue, noise(0), model="picky")
        await version_of(bench)
    assert await bench.job_is(job_id, State.QUEUED)
    await redis.hdel(keys.WORKERS, "w9")
    assert (await refusal(bench, job_id))["code"] == "model_unavailable"
    card = await card_that(bench, "picky", lambda one: one.state == "unavailable")
    assert card.version == entry.version


def interface_of(models: Path, name: str) -> str:
    return load_model(entry_of(models / name), "cpu", settings()).card.interface


@pytest.mark.parametrize("was_resident", [True, False])
async def test_jobs_that_wait_are_computed_as_they_were_meant_or_not_at_all(
    start: Start, models: Path, *, was_resident: bool
) -> None:
    """A job is checked, and its inputs prepared, by the card of its time."""
    bench = await start()
    if was_resident:
        await version_of(bench)
    meant = {"model_interface": interface_of(models, "tiny"), "model_version": "accepted"}
    second = rewrite(models, "tiny", OTHER)
    await card_that(bench, "tiny", lambda card: card.version == second)
    weights_alone = await enqueue(bench.queue, noise(0), **meant)
    assert (await bench.answer(weights_alone))[0].model_version == second
    third = rewrite(models, "tiny", factory_card(classes=4))
    await card_that(bench, "tiny", lambda card: card.version == third)
    late = await enqueue(bench.queue, noise(0), **meant)
    refused = await refusal(bench, late)
    assert refused["code"] == "model_changed"
    assert f"version {third} has another input" in refused["detail"]
    assert refused["extensions"] == {"version": third, "retry_after_s": 1}
    await bench.answer(await enqueue(bench.queue, noise(0)))


@pytest.mark.parametrize(
    ("head", "same"),
    [
        ('title = "T"', True),
        ('feature_layer = "stem"', True),
        ('labels = ["a", "b", "c"]', False),
        ('task = "multi-label"', False),
        ('reduction_layer = "softmax"', False),
    ],
)
def test_what_a_request_is_checked_by(models: Path, head: str, *, same: bool) -> None:
    write_model(models, "other", factory_card(head=head))
    write_model(models, "rgb", TINY.replace('"L"', '"L"\nmean = [0.5]'))
    assert (interface_of(models, "other") == interface_of(models, "tiny")) is same
    assert interface_of(models, "rgb") != interface_of(models, "tiny")
