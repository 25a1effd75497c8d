"""A worker that is told to load and unload models, while jobs come and go."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from camserve.broker import new_command_id
from camserve.contracts.states import State
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import factory_card, write_model
from tests.workers.factories import SLOW
from tests.workers.jobs import enqueue, noise

pytestmark = pytest.mark.anyio


async def told(bench: Bench, kind: Any, model: str) -> dict[str, Any] | None:
    """The failure of w1; None if it has done it."""
    return await answer(bench, await tell(bench, kind, model))


async def tell(bench: Bench, kind: Any, model: str) -> str:
    command_id = new_command_id()
    await bench.commands.send(command_id, kind, model)
    return command_id


async def answer(bench: Bench, command_id: str) -> dict[str, Any] | None:
    found = await eventually(lambda: bench.commands.answers(command_id))
    return dict(json.loads(found["w1"])) if found["w1"] else None


async def resident(bench: Bench) -> tuple[str, ...]:
    status = await bench.status()
    assert status is not None
    return status.resident


async def warm(start: Start, **changes: Any) -> Bench:
    bench = await start(**changes)
    await eventually(lambda: _is_warm(bench))
    return bench


async def _is_warm(bench: Bench) -> bool:
    status = await bench.status()
    return status is not None and status.warm


async def test_load_and_unload(start: Start) -> None:
    bench = await warm(start)
    for _ in range(2):  # idempotent
        assert await told(bench, "load", "tiny") is None
        assert await resident(bench) == ("tiny",), "the heartbeat comes before the answer"
        assert await bench.state("tiny") == "ready"
    for _ in range(2):
        assert await told(bench, "unload", "tiny") is None
        assert await resident(bench) == ()
        assert await bench.state("tiny") == "ready"
    await bench.answer(await enqueue(bench.queue, noise(0)))  # loads it again
    assert bench.loop._residency.resident == ("tiny",)


async def test_unloading_frees_the_memory(start: Start) -> None:
    bench = await warm(start)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    model = bench.loop._residency.get("tiny")
    assert model is not None
    network = weakref.ref(model.explainer.model)
    model.explainer.model.itself = [model.explainer.model]  # as hooks and parametrizations do
    del model
    gc.disable()
    try:
        assert await told(bench, "unload", "tiny") is None
        assert network() is None
    finally:
        gc.enable()


async def test_unloading_waits_for_what_runs(start: Start, tmp_path: Path) -> None:
    bench = await warm(start, max_batch=1)
    assert await told(bench, "load", "slow") is None
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    command_id = await tell(bench, "unload", "slow")
    queued = [await enqueue(bench.queue, noise(i), model="slow") for i in (1, 2)]
    await eventually(lambda: _is_gone(bench, "slow"))
    assert await bench.commands.answers(command_id) == {}
    (tmp_path / "go").touch()
    await bench.answer(running)
    assert await answer(bench, command_id) is None
    for job_id in queued:  # of a model that was unloaded before their turn
        await bench.answer(job_id)


@pytest.mark.parametrize("loaded", [True, False])
async def test_unloading_waits_for_jobs_in_hand_between_their_portions(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, loaded: bool
) -> None:
    """Nothing runs on the device, and yet there are jobs that hold the model."""
    bench = await warm(start)
    if loaded:
        assert await told(bench, "load", "tiny") is None
    entered, gate = asyncio.Event(), asyncio.Event()
    run = bench.loop._computing.run

    async def paused(*arguments: Any) -> None:
        entered.set()
        await gate.wait()
        await run(*arguments)

    monkeypatch.setattr(bench.loop._computing, "run", paused)
    job_id = await enqueue(bench.queue, noise(0))
    await entered.wait()
    command_id = await tell(bench, "unload", "tiny")
    assert await told(bench, "unload", "slow") is None  # told later, and done
    assert await resident(bench) == ()
    assert await bench.commands.answers(command_id) == {}
    gate.set()
    assert await answer(bench, command_id) is None
    await bench.answer(job_id)


async def _is_gone(bench: Bench, model: str) -> bool:
    return model not in bench.loop._residency.resident


async def test_a_model_that_loads_is_unloaded_when_its_jobs_are_done(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await warm(start)
    entered, gate = asyncio.Event(), asyncio.Event()
    load = bench.loop._residency._load

    async def slow_load(name: str) -> Any:
        entered.set()
        await gate.wait()
        return await load(name)

    monkeypatch.setattr(bench.loop._residency, "_load", slow_load)
    waiting = await enqueue(bench.queue, noise(0))
    await entered.wait()
    command_id = await tell(bench, "unload", "tiny")
    assert await told(bench, "unload", "slow") is None  # nothing holds up the others
    assert await bench.commands.answers(command_id) == {}
    gate.set()
    assert await answer(bench, command_id) is None
    assert await bench.job_is(waiting, State.SUCCEEDED)
    assert await resident(bench) == ()


async def test_under_load_nothing_is_lost(start: Start) -> None:
    """Jobs without a pause while their model is unloaded again and again."""
    bench = await warm(start)
    ids: list[str] = []

    async def ask() -> None:
        for i in range(40):
            ids.append(await enqueue(bench.queue, noise(i)))
            await asyncio.sleep(0.002)

    async def unload() -> None:
        for _ in range(8):
            assert await told(bench, "unload", "tiny") is None

    await asyncio.gather(ask(), unload())
    for job_id in ids:
        record = await bench.done(job_id)
        assert (record.state, record.attempts) == (State.SUCCEEDED, 1)


async def test_a_load_that_fails_says_why(start: Start, models: Path) -> None:
    write_model(models, "bad", factory_card("raising"))
    bench = await warm(start)
    for _ in range(2):  # tried again when it is said again
        failure = await told(bench, "load", "bad")
        assert failure is not None
        assert failure["code"] == "model_unavailable"
        assert "the disk is full" in failure["detail"] or "OSError" in failure["detail"]
    assert await told(bench, "unload", "bad") is None


async def test_models_of_others_are_left_to_them(start: Start) -> None:
    bench = await warm(start)
    command_id = await tell(bench, "load", "elsewhere")
    assert await told(bench, "load", "tiny") is None
    assert await bench.commands.answers(command_id) == {}


async def test_what_is_said_during_an_outage_is_heard_after_it(start: Start) -> None:
    bench = await warm(start)
    await bench.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await told(bench, "load", "tiny") is None


async def test_no_heartbeat_overtakes_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one that arrived later would tell of a model that is gone."""
    bench = await warm(start)
    beat, now, most = bench.registry.heartbeat, 0, 0

    async def slow(*arguments: Any, **options: Any) -> bool:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        try:
            return await beat(*arguments, **options)
        finally:
            now -= 1

    monkeypatch.setattr(bench.registry, "heartbeat", slow)
    await asyncio.gather(*(told(bench, "unload", "tiny") for _ in range(4)))
    assert most == 1


async def test_medians_of_both_kinds_are_published(start: Start) -> None:
    bench = await warm(start)
    assert (await bench.status()).p50_ms == {}  # type: ignore[union-attr]
    await bench.answer(await enqueue(bench.queue, noise(0)))
    await bench.done(await enqueue(bench.queue, noise(0), kind="predict", targets=()))

    async def published() -> Any:
        status = await bench.status()
        times = status.p50_ms.get("tiny") if status else None
        return times if times and times.explain and times.predict else None

    await eventually(published)
