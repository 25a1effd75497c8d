"""How far a job is, while it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from camserve.contracts.targets import TopTarget
from camserve.engine import Budget
from tests.workers.bench import Start, eventually
from tests.workers.cards import TINY, entry_of, settings, write_model
from tests.workers.factories import SLOW
from tests.workers.jobs import compute_job, enqueue, noise
from workers.compute import Limits, explain_jobs
from workers.costs import passes_of
from workers.models import load_model
from workers.progress import Progress


@pytest.mark.anyio
async def test_a_job_of_several_passes_tells_how_far_it_is(start: Start, tmp_path: Path) -> None:
    bench = await start(max_batch=1)
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))
    inputs = (noise(0), noise(1), noise(2, SLOW), noise(3), noise(4))
    job_id = await enqueue(bench.queue, *inputs, model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))

    async def told() -> bool:
        record = await bench.queue.get(job_id)
        return record is not None and record.progress == (3, 5)

    await eventually(told)
    (tmp_path / "go").touch()
    await bench.answer(job_id)
    record = await bench.queue.get(job_id)
    assert record is not None
    assert record.progress is not None
    assert bench.loop._held.progress.news([]) == {}


@pytest.mark.anyio
async def test_a_job_of_one_pass_tells_nothing(start: Start, tmp_path: Path) -> None:
    bench = await start()
    job_id = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    assert bench.loop._held.progress.news([job_id]) == {}
    (tmp_path / "go").touch()
    await bench.answer(job_id)


def test_a_costly_job_counts_up_to_what_it_takes(tmp_path: Path) -> None:
    model = load_model(entry_of(write_model(tmp_path, "tiny", TINY)), "cpu", settings())
    job = compute_job("j", noise(0), noise(1), targets=[TopTarget(top=2)], method="scorecam")
    progress, seen = Progress(), []
    handle = model.explainer.model.register_forward_pre_hook(
        lambda *_: seen.append(progress.news(["j"]).get("j"))
    )
    explain_jobs(
        model, [job], limits=Limits(max_batch=1), worker="w", device="cpu", progress=progress
    )
    handle.remove()
    total = passes_of(job.job, model.explainer)
    told = [one for one in seen if one is not None]
    assert len(told) > 3
    assert {one[1] for one in told} == {total}
    counts = [one[0] for one in told]
    assert counts == sorted(set(counts))
    assert counts[-1] == total


def test_what_is_not_in_hand_any_more_is_forgotten() -> None:
    progress = Progress()
    budgets = {name: Budget() for name in "ab"}
    for name, budget in budgets.items():
        progress.begin(name, budget, 10)
        budget.spend(2)
    assert progress.news("ab") == {"a": (2, 10), "b": (2, 10)}
    assert progress.news("ab") == {}
    budgets["a"].spend(1)
    budgets["b"].spend(1)
    assert progress.news("b") == {"b": (3, 10)}
    assert progress.news("ab") == {}
    progress.begin("a", Budget(), 10)  # another attempt
    assert progress.news("ab") == {}
