"""What a worker holds for its next turn, while its device is busy: the device need not wait for it,
and nobody is worse off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import Priority, WorkerQueue, keys, new_job_id
from camserve.contracts.states import State
from camserve.queueing import queue_options
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import factory_card, settings
from tests.workers.factories import SLOW
from tests.workers.jobs import document, enqueue, failure, load_job, noise
from tests.workers.processes import Workers
from workers import ahead, computing

pytestmark = pytest.mark.anyio

OPTIONS = queue_options(settings())


async def held(redis: Redis, model: str = "slow") -> list[str]:
    """The jobs that a worker has claimed ahead, as the server knows it."""
    found = []
    for lane in ("interactive", "bulk"):
        stream = keys.stream(model, lane)
        if await redis.exists(stream):
            for one in await redis.xpending_range(stream, keys.GROUP, "-", "+", 100):
                if one["consumer"].endswith(b":ahead"):
                    # none if it was given back a moment ago
                    entries = await redis.xrange(stream, one["message_id"], one["message_id"])
                    found += [fields[b"id"].decode() for _, fields in entries]
    return found


async def are_held(redis: Redis, *ids: str) -> None:
    async def look() -> bool:
        return sorted(await held(redis)) == sorted(ids)

    await eventually(look)


async def busy(start: Start, folder: Path, **changes: Any) -> tuple[Bench, str]:
    """A worker whose device is held until there is a file `go`, and the job that holds it. Its
    batches took no time until now."""
    bench = await start(**changes)
    await bench.answer(await enqueue(bench.queue, noise(0), model="slow"))
    blocker = await enqueue(bench.queue, noise(1, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((folder / "entered").exists))
    return bench, blocker


async def test_the_next_batch_is_held_while_the_device_is_busy(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, blocker = await busy(start, tmp_path, max_batch=4)
    ids = [await enqueue(bench.queue, noise(seed), model="slow") for seed in (2, 3)]
    await are_held(redis, *ids)
    for job_id in ids:
        record = await bench.queue.get(job_id)
        assert record is not None
        assert (record.state, record.attempts) == (State.QUEUED, 0)
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    answers = [await bench.answer(job_id) for job_id in ids]
    assert [about.batch_size for about, _ in answers] == [2, 2]
    assert await held(redis) == []
    for seed, (_, maps) in zip((2, 3), answers, strict=True):  # read in time or ahead of it
        _, alone = await bench.answer(await enqueue(bench.queue, noise(seed), model="slow"))
        assert all(one.allclose(two) for one, two in zip(maps, alone, strict=True))


async def test_what_comes_later_joins(start: Start, redis: Redis, tmp_path: Path) -> None:
    """To claim early makes no batch smaller."""
    bench, _ = await busy(start, tmp_path, max_batch=4)
    ids = []
    for seed in range(2, 7):
        ids.append(await enqueue(bench.queue, noise(seed), model="slow"))
        await are_held(redis, *ids[:4])
    (tmp_path / "go").touch()
    assert [(await bench.answer(one))[0].batch_size for one in ids] == [4, 4, 4, 4, 1]


async def test_a_job_that_comes_at_the_last_moment_joins(
    start: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "FIRST_LOOK_S", 60)  # it looks once, and then when it begins
    bench, _ = await busy(start, tmp_path)
    ids = [await enqueue(bench.queue, noise(seed), model="slow") for seed in (2, 3)]
    (tmp_path / "go").touch()
    assert [(await bench.answer(one))[0].batch_size for one in ids] == [2, 2]


async def test_an_idle_worker_is_given_what_is_held(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, blocker = await busy(start, tmp_path)
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await are_held(redis, job_id)
    idle = WorkerQueue(redis, OPTIONS, "idle")
    (begun,) = await idle.begin_batch(await idle.claim(["slow"], 8, 0))
    assert (begun.job_id, begun.attempts) == (job_id, 1)
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    await bench.answer(await enqueue(bench.queue, noise(3), model="slow"))  # it goes on
    assert await bench.job_is(job_id, State.RUNNING)
    assert await idle.finish(begun, b"r")


async def test_an_interactive_job_goes_before_bulk_ones_that_are_held(
    start: Start, redis: Redis, models: Path, tmp_path: Path
) -> None:
    (models / "slow" / "card.toml").write_text(factory_card("recording", folder=str(tmp_path)))
    bench, _ = await busy(start, tmp_path, max_batch=1)
    bulk = [
        await enqueue(bench.queue, noise(mark, mark), model="slow", priority=Priority.BULK)
        for mark in (11, 12)
    ]
    await are_held(redis, bulk[0])
    interactive = await enqueue(bench.queue, noise(13, 13), model="slow")
    (tmp_path / "go").touch()
    for job_id in (*bulk, interactive):
        await bench.answer(job_id)
    ran = (await asyncio.to_thread((tmp_path / "ran").read_text)).split()
    assert [mark for mark in ran if mark in {"11.0", "12.0", "13.0"}] == ["13.0", "11.0", "12.0"]


async def test_nothing_is_held_for_a_job_of_many_passes(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    """It may take minutes, and other workers be free before."""
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0), model="slow"))
    costly = await enqueue(bench.queue, noise(1, SLOW), model="slow", method="scorecam")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await asyncio.sleep(0.1)
    assert await held(redis) == []
    (tmp_path / "go").touch()
    await bench.answer(costly)
    await bench.answer(job_id)


async def test_nothing_is_held_where_batches_take_long(
    start: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "SHORT_MS", 0)
    bench, _ = await busy(start, tmp_path)
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await asyncio.sleep(0.1)
    assert await held(redis) == []
    (tmp_path / "go").touch()
    await bench.answer(job_id)


async def test_a_device_that_does_not_get_free_holds_nothing_for_long(
    start: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "HOLD_S", 2.0)
    bench, _ = await busy(start, tmp_path)
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await are_held(redis, job_id)
    await are_held(redis)
    await asyncio.sleep(0.1)  # and it is not claimed again
    assert await held(redis) == []
    (tmp_path / "go").touch()
    await bench.answer(job_id)
    record = await bench.queue.get(job_id)
    assert record is not None
    assert record.attempts == 1


async def test_a_worker_that_is_told_to_stop_hands_back_at_once(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, blocker = await busy(start, tmp_path)
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await are_held(redis, job_id)
    bench.loop.stop()
    await are_held(redis)  # though the device is busy
    (claim,) = await WorkerQueue(redis, OPTIONS, "other").claim(["slow"], 8, 0)
    assert (claim.job_id, claim.redelivered) == (job_id, False)
    (tmp_path / "go").touch()
    await bench.answer(blocker)


async def test_what_is_canceled_while_it_is_held_is_not_computed(
    start: Start, redis: Redis, models: Path, tmp_path: Path
) -> None:
    (models / "slow" / "card.toml").write_text(factory_card("recording", folder=str(tmp_path)))
    bench, _ = await busy(start, tmp_path)
    ids = [await enqueue(bench.queue, noise(mark, mark), model="slow") for mark in (11, 12)]
    await are_held(redis, *ids)
    record = await bench.queue.cancel(ids[0])
    assert record is not None
    assert record.state is State.CANCELED
    (tmp_path / "go").touch()
    assert (await bench.answer(ids[1]))[0].batch_size == 1
    ran = await asyncio.to_thread((tmp_path / "ran").read_text)
    assert "12.0" in ran.split()
    assert "11.0" not in ran.split()


async def test_a_load_is_held_like_any_other_job(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, _ = await busy(start, tmp_path)
    load = await load_job(bench.queue, "tiny")
    await eventually(lambda: held(redis, "tiny"))
    assert await bench.state("tiny") == "declared"
    (tmp_path / "go").touch()
    assert (await bench.done(load)).state is State.SUCCEEDED
    assert await bench.state("tiny") == "ready"


async def test_a_damaged_payload_that_is_held_fails_alone(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, _ = await busy(start, tmp_path)
    good = await enqueue(bench.queue, noise(2), model="slow")
    bad = await bench.queue.enqueue(
        job_id=new_job_id("slow"),
        priority=Priority.INTERACTIVE,
        time_to_deadline_ms=60_000,
        payload=b"no safetensors",
        document=document(noise(3), model="slow").model_dump_json().encode(),
    )
    await are_held(redis, good, bad.job_id)
    (tmp_path / "go").touch()
    await bench.answer(good)
    assert failure(await bench.done(bad.job_id))["code"] == "invalid_input"


async def test_what_is_held_outlives_its_lease_and_an_unload(
    start: Start, redis: Redis, tmp_path: Path
) -> None:
    bench, _ = await busy(start, tmp_path, lease_s=0.3)
    job_id = await enqueue(bench.queue, noise(2), model="slow")
    await are_held(redis, job_id)
    bench.loop._residency._models.let_go("slow")
    await asyncio.sleep(0.5)  # longer than a lease
    (tmp_path / "go").touch()
    await bench.answer(job_id)
    record = await bench.queue.get(job_id)
    assert record is not None
    assert record.attempts == 1


async def test_a_crash_costs_what_is_held_no_attempt(
    redis_url: str, redis: Redis, models: Path, tmp_path: Path
) -> None:
    """Only what was on the device may have been the cause, and is done again alone."""
    with Workers(redis_url, models, tmp_path, preload="none") as workers:
        bench = Bench(redis, models, settings())
        async with bench.queue as queue:
            await bench.answer(await enqueue(queue, noise(0), model="slow"))
            blocker = await enqueue(queue, noise(1, SLOW), model="slow")
            await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
            ids = [await enqueue(queue, noise(seed), model="slow") for seed in (2, 3)]
            await are_held(redis, *ids)
            (child,) = workers.children()
            child.kill()
            (tmp_path / "go").touch()
            attempts = []
            for job_id in (blocker, *ids):
                record = await bench.done(job_id)
                assert record.state is State.SUCCEEDED
                attempts.append(record.attempts)
            assert attempts == [2, 1, 1]
