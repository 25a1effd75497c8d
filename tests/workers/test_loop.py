"""The worker's loop on a real server: claims, batches, answers, outages, the stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from camserve.broker import Priority, new_job_id
from camserve.contracts.cards import WorkerStatus
from camserve.contracts.states import State
from camserve.contracts.targets import ClassIndexTarget
from tests.workers import jobs
from tests.workers.bench import Bench, Start, eventually
from tests.workers.factories import FAULTY, SLOW
from tests.workers.jobs import enqueue, noise
from workers import computing

pytestmark = pytest.mark.anyio


async def test_jobs_are_answered_and_the_model_is_loaded_on_first_demand(start: Start) -> None:
    bench = await start()
    card = await bench.card("tiny")
    assert card is not None
    assert (card.state, card.input) == ("declared", None)
    ids = [await enqueue(bench.queue, noise(i)) for i in range(3)]
    answers = [await bench.answer(job_id) for job_id in ids]
    assert {about.worker for about, _ in answers} == {"w1"}
    assert await bench.state("tiny") == "ready"
    assert await bench.state("slow") == "declared"
    status = await eventually(lambda: _resident(bench, "tiny"))
    assert (status.device, status.models, status.warm) == ("cpu", ("slow", "tiny"), True)


async def _resident(bench: Bench, model: str) -> WorkerStatus | None:
    status = await bench.status()
    return status if status and model in status.resident else None


async def test_waiting_jobs_of_several_requests_share_a_forward(
    start: Start, tmp_path: Path
) -> None:
    bench = await start(max_batch=4)
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))
    blocker = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    ids = [await enqueue(bench.queue, noise(i), model="slow") for i in range(1, 5)]
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    sizes = [(await bench.answer(job_id))[0].batch_size for job_id in ids]
    assert sizes == [4, 4, 4, 4]


async def test_nothing_is_claimed_while_the_device_is_busy(start: Start, tmp_path: Path) -> None:
    """What this worker cannot run yet is left to other workers, and to a fuller batch."""
    bench = await start(max_batch=4)
    blocker = await enqueue(bench.queue, noise(0, SLOW), model="slow")  # runs beside the loop
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    await asyncio.sleep(0.1)  # a claim that was under way has come back empty by now
    ids = [await enqueue(bench.queue, noise(i), model="slow") for i in range(1, 5)]
    await asyncio.sleep(0.1)
    assert [await bench.job_is(job_id, State.QUEUED) for job_id in ids] == [True] * 4
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    assert [(await bench.answer(job_id))[0].batch_size for job_id in ids] == [4] * 4


async def test_large_jobs_are_committed_one_by_one(start: Start, tmp_path: Path) -> None:
    """A small job need not wait for the forwards of the large ones that came with it."""
    bench = await start(max_batch=2)
    await bench.answer(await enqueue(bench.queue, noise(4), model="slow"))  # it is resident now
    ids = [await enqueue(bench.queue, noise(0), noise(1), model="slow")]
    ids += [await enqueue(bench.queue, noise(2), noise(3, SLOW), model="slow")]
    await bench.answer(ids[0])
    assert not (tmp_path / "go").exists()
    (tmp_path / "go").touch()
    await bench.answer(ids[1])


async def test_a_model_that_loads_does_not_hold_up_the_others(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    gate = asyncio.Event()
    load = bench.loop._residency.load

    async def slow_load(name: str) -> Any:
        await gate.wait()
        return await load(name)

    monkeypatch.setattr(bench.loop._residency, "load", slow_load)
    waiting = await enqueue(bench.queue, noise(1), model="slow")
    await eventually(lambda: bench.job_is(waiting, State.RUNNING))
    await bench.answer(await enqueue(bench.queue, noise(2)))
    gate.set()
    await bench.answer(waiting)


async def test_a_job_canceled_while_its_model_loads_is_not_computed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    gate = asyncio.Event()
    load = bench.loop._residency.load
    computed: list[str] = []

    async def slow_load(name: str) -> Any:
        await gate.wait()
        return await load(name)

    def explain(_model: object, work: list[Any], **_options: object) -> list[bytes]:
        computed.extend(job.job_id for job in work)
        return [b""] * len(work)

    monkeypatch.setattr(bench.loop._residency, "load", slow_load)
    monkeypatch.setattr(computing, "explain_jobs", explain)
    unwanted, wanted = [await enqueue(bench.queue, noise(i)) for i in (1, 2)]
    await eventually(lambda: bench.job_is(unwanted, State.RUNNING))
    await bench.queue.cancel(unwanted)
    gate.set()
    assert (await bench.done(unwanted)).state is State.CANCELED
    assert (await bench.done(wanted)).state is State.SUCCEEDED
    assert computed == [wanted]


async def test_an_unreadable_document_fails(start: Start) -> None:
    bench = await start()
    accepted = await bench.queue.enqueue(
        job_id=new_job_id("tiny"),
        priority=Priority.INTERACTIVE,
        time_to_deadline_ms=10_000,
        payload=b"",
        document=b'{"version": 99}',
    )
    record = await bench.done(accepted.job_id)
    assert (record.state, jobs.failure(record)["code"]) == (State.FAILED, "internal")
    assert "same version" in jobs.failure(record)["detail"]


async def test_the_guilty_job_fails_alone(start: Start) -> None:
    bench = await start()
    bad = await enqueue(bench.queue, noise(0, FAULTY), model="slow")
    good = await enqueue(bench.queue, noise(1), model="slow")
    wrong = await enqueue(
        bench.queue, noise(2), model="slow", targets=[ClassIndexTarget(class_index=9)]
    )
    await bench.answer(good)
    assert jobs.failure(await bench.done(bad))["code"] == "internal"
    assert jobs.failure(await bench.done(wrong))["code"] == "class_index_out_of_range"


async def test_an_error_of_ours_fails_the_jobs_and_the_loop_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a bug in compute")

    with monkeypatch.context() as patch:
        patch.setattr(computing, "explain_jobs", fail)
        first = await bench.done(await enqueue(bench.queue, noise(0)))  # beside, after the load
        second = await bench.done(await enqueue(bench.queue, noise(1)))  # in the loop itself
    assert {first.state, second.state} == {State.FAILED}
    await bench.answer(await enqueue(bench.queue, noise(2)))
