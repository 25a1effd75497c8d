"""A running job that nobody waits for any more is not computed to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, WorkerQueue
from camserve.contracts.methods import Evaluate
from camserve.contracts.states import State
from camserve.errors import ErrorCode
from camserve.queueing import queue_options
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import settings
from tests.workers.factories import SLOW
from tests.workers.jobs import compute_job, enqueue, failed, failure, noise, read, run
from workers import loop as loop_module
from workers.models import ResidentModel, load_model
from workers.repository import scan

pytestmark = pytest.mark.anyio

CURVES = Evaluate(metrics=("deletion", "insertion"), steps=50)

LONG: dict[str, dict[str, Any]] = {
    "scorecam": {"inputs": [noise(0, SLOW)], "method": "scorecam"},
    "ablationcam": {"inputs": [noise(0, SLOW)], "method": "ablationcam"},
    "evaluate": {"inputs": [noise(0, SLOW)], "evaluate": CURVES},
    "many inputs": {"inputs": [noise(0, SLOW), *(noise(n) for n in range(1, 9))]},
    "a prediction of many inputs": {
        "inputs": [noise(0, SLOW), *(noise(n) for n in range(1, 9))],
        "kind": "predict",
        "targets": (),
    },
}
"""Jobs of many passes of one input each, of which the first waits for the file `go`."""


async def held(
    start: Start, tmp_path: Path, asked: dict[str, Any], **options: Any
) -> tuple[Bench, str, list[int]]:
    """A worker in the first pass of a job, which waits; the sizes of the passes that follow."""
    bench = await start(max_batch=1, **options.pop("settings", {}))
    await bench.answer(await enqueue(bench.queue, noise(99), model="slow"))
    resident = bench.loop._residency.get("slow")
    assert resident is not None
    passes: list[int] = []
    resident.explainer.model.register_forward_pre_hook(
        lambda _module, args: passes.append(len(args[0]))
    )
    given = {name: value for name, value in asked.items() if name != "inputs"}
    job_id = await enqueue(bench.queue, *asked["inputs"], model="slow", **given, **options)
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    return bench, job_id, passes


def withdrawn(bench: Bench, job_id: str) -> Callable[[], Any]:
    """Whether the worker has heard that nobody waits for the job."""

    async def look() -> bool:
        return bench.loop._held._withdrawn[job_id].is_set()

    return look


@pytest.mark.parametrize("asked", LONG.values(), ids=LONG)
async def test_a_canceled_job_stops_before_its_next_pass(
    start: Start, tmp_path: Path, asked: dict[str, Any]
) -> None:
    bench, job_id, passes = await held(start, tmp_path, asked)
    await bench.queue.cancel(job_id)
    await eventually(withdrawn(bench, job_id))
    (tmp_path / "go").touch()
    record = await bench.done(job_id)
    assert (record.state, record.failure) == (State.CANCELED, None)
    assert passes == [1]
    assert await bench.queue.result(job_id) is None
    await bench.answer(await enqueue(bench.queue, noise(3), model="slow"))  # the device is free
    assert await bench.queue.get(job_id) == record


async def test_a_job_stops_at_its_deadline(start: Start, tmp_path: Path) -> None:
    """It is closed by its worker at once, and not when the reaper comes to it."""
    bench, job_id, passes = await held(start, tmp_path, LONG["scorecam"], deadline_s=0.3)
    await eventually(withdrawn(bench, job_id))
    assert await bench.job_is(job_id, State.RUNNING)
    (tmp_path / "go").touch()
    record = await bench.done(job_id)
    assert record.state is State.EXPIRED
    assert failure(record)["code"] == ErrorCode.DEADLINE_EXCEEDED
    assert passes == [1]


async def test_what_the_reaper_has_closed_is_not_computed_on(start: Start, tmp_path: Path) -> None:
    bench, job_id, passes = await held(
        start, tmp_path, LONG["scorecam"], deadline_s=0.3, settings={"lease_s": 0.15}
    )

    async def reaped() -> bool:
        await bench.queue.reap()
        return await bench.job_is(job_id, State.EXPIRED)

    await eventually(reaped)
    closed = await bench.queue.get(job_id)
    await eventually(withdrawn(bench, job_id))
    (tmp_path / "go").touch()
    await bench.answer(await enqueue(bench.queue, noise(3), model="slow"))
    assert passes == [1, 1]
    assert await bench.queue.get(job_id) == closed


async def test_what_another_worker_has_is_not_computed_on(start: Start, tmp_path: Path) -> None:
    bench, job_id, passes = await held(start, tmp_path, LONG["scorecam"])
    options = queue_options(settings())
    assert await WorkerQueue.release_consumer(bench.redis, options, "w1", ["slow"]) == 1
    heir = WorkerQueue(bench.redis, options, "heir")
    (claim,) = await heir.claim(["slow"], 1, 1)
    begun = await heir.begin(claim)
    assert begun is not None
    assert begun.job_id == job_id
    await eventually(withdrawn(bench, job_id))
    (tmp_path / "go").touch()
    await bench.answer(await enqueue(bench.queue, noise(3), model="slow"))
    assert passes == [1, 1]
    assert await bench.job_is(job_id, State.RUNNING)
    assert await heir.finish(begun, b"")


async def test_a_canceled_job_takes_no_batch_mate_along(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    """They share the pass that runs."""
    queue = JobQueue(redis, queue_options(settings()))
    inputs = [noise(0, SLOW), noise(1), noise(2)]
    first, canceled, last = [await enqueue(queue, one, model="slow") for one in inputs]
    bench = await start()
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    await queue.cancel(canceled)
    await eventually(withdrawn(bench, canceled))
    (tmp_path / "go").touch()
    for mate in (first, last):
        about, _ = await bench.answer(mate)
        assert about.batch_size == 3
    assert (await bench.done(canceled)).state is State.CANCELED


async def test_what_is_canceled_before_its_portion_is_not_computed(
    start: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim: a prediction, which comes first and waits, three explanations, a costly one."""
    monkeypatch.setattr(loop_module, "WANTED_S", 1000)
    queue = JobQueue(redis, queue_options(settings()))
    first = await enqueue(queue, noise(0, SLOW), model="slow", kind="predict", targets=())
    jobs = [await enqueue(queue, noise(n), model="slow") for n in range(1, 4)]
    costly = await enqueue(queue, noise(4), model="slow", method="scorecam")
    bench = await start()
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    for one in (*jobs, costly):
        assert await bench.job_is(one, State.RUNNING)
    await queue.cancel(jobs[1])
    await queue.cancel(costly)
    (tmp_path / "go").touch()
    assert (await bench.done(first)).state is State.SUCCEEDED
    for one in (jobs[1], costly):
        assert (await bench.done(one)).state is State.CANCELED
    for one in (jobs[0], jobs[2]):
        about, _ = await bench.answer(one)
        assert about.batch_size == 2


@pytest.fixture
def model(models: Path) -> ResidentModel:
    return load_model(scan(models).entries["tiny"], "cpu", settings())


def test_a_withdrawn_job_leaves_its_batch_and_no_other_does(model: ResidentModel) -> None:
    jobs = [compute_job(str(n), noise(n)) for n in range(3)]
    jobs[1].withdrawn.set()
    first, stopped, last = run(model, *jobs)
    assert failed(stopped).code is ErrorCode.CANCELED
    assert [read(one)[0].batch_size for one in (first, last)] == [2, 2]
