"""Attempts end together, and each as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from camserve.broker import Ending, JobQueue, QueueOptions, State, keys, scripts
from camserve.errors import QueueUnavailable
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import MODEL, assert_at_rest, begin_one, claim_one, due_ago, submit

pytestmark = pytest.mark.anyio


async def test_each_of_a_batch_ends_as_it_did(
    queue: JobQueue, worker: WorkerMaker, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    names = ("done", "failed", "canceled", "late", "wanted", "stale", "broken", "last")
    ids = {name: await submit(queue) for name in names}
    w = worker()
    held = {name: await begin_one(w) for name in names}
    assert {name: one.job_id for name, one in held.items()} == ids
    await queue.cancel(ids["canceled"])
    await due_ago(redis, ids["late"], 1)
    await type(w).release_consumer(redis, QueueOptions(), "w1", [MODEL])
    heir = worker("heir")
    while (again := await claim_one(heir)).job_id != ids["stale"]:
        pass
    assert await heir.begin(again)
    await redis.set(keys.job(MODEL, ids["broken"]), "no hash")
    trips: list[int] = []
    send = scripts._send

    async def counted(redis: Redis, commands: Any) -> Any:
        trips.append(len(commands))
        return await send(redis, commands)

    monkeypatch.setattr(scripts, "_send", counted)
    endings = {
        "done": Ending.finished(held["done"], b"1"),
        "failed": Ending.failed(held["failed"], b"{}"),
        "canceled": Ending.finished(held["canceled"], b"2"),
        "late": Ending.dropped(held["late"]),
        "wanted": Ending.dropped(held["wanted"]),
        "stale": Ending.finished(held["stale"], b"3"),
        "broken": Ending.finished(held["broken"], b"4"),
        "last": Ending.finished(held["last"], b"5"),
    }
    closed = dict(zip(endings, await w.commit(list(endings.values())), strict=True))
    assert trips == [13]
    assert isinstance(broken := closed.pop("broken"), ResponseError)
    assert not isinstance(broken, QueueUnavailable)
    of_others = {"done", "failed", "canceled", "late", "last"}
    assert closed == {name: name in of_others for name in names if name != "broken"}
    await redis.delete(keys.job(MODEL, ids["broken"]))
    states = {name: await queue.get(ids[name]) for name in closed}
    assert {name: record and record.state for name, record in states.items()} == {
        "done": State.SUCCEEDED,
        "failed": State.FAILED,
        "canceled": State.CANCELED,
        "late": State.EXPIRED,
        "wanted": State.RUNNING,
        "stale": State.RUNNING,
        "last": State.SUCCEEDED,
    }
    results = [await queue.result(ids[name]) for name in closed]
    assert results == [b"1", None, None, None, None, None, b"5"]


async def test_a_batch_that_is_committed_twice(queue: JobQueue, worker: WorkerMaker, redis: Redis):
    """As after an outage in which its replies were lost."""
    ids = [await submit(queue) for _ in range(3)]
    w = worker()
    endings = [Ending.finished(await begin_one(w), f"{n}".encode()) for n in range(3)]
    assert await w.commit(endings) == [True] * 3
    assert await w.commit(endings) == [True] * 3
    assert [await queue.result(job_id) for job_id in ids] == [b"0", b"1", b"2"]
    await assert_at_rest(redis)


async def test_only_what_had_no_room_is_sent_again(
    queue: JobQueue, worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
):
    ids = [await submit(queue) for _ in range(2)]
    w = worker()
    endings = [Ending.finished(await begin_one(w), f"{n}".encode()) for n in range(2)]
    trips: list[int] = []
    send = scripts._send

    async def once_without_room(redis: Redis, commands: Any) -> Any:
        trips.append(len(commands))
        if len(trips) > 1:
            return await send(redis, commands)
        return [*await send(redis, commands[:2]), OutOfMemoryError("OOM"), OutOfMemoryError("OOM")]

    monkeypatch.setattr(scripts, "_send", once_without_room)
    assert await w.commit(endings) == [True, True]
    assert trips == [4, 2]
    assert [await queue.result(job_id) for job_id in ids] == [b"0", b"1"]


async def test_a_batch_that_cannot_be_committed_is_told_so(queue: JobQueue, worker: WorkerMaker):
    ids = [await submit(queue) for _ in range(2)]
    w = worker(options=QueueOptions(commit_patience_s=0.01))
    endings = [Ending.finished(await begin_one(w), b"r") for _ in ids]
    await queue._redis.config_set("maxmemory", "1")
    try:
        closed = await w.commit(endings)
    finally:
        await queue._redis.config_set("maxmemory", "0")
    assert [type(one) for one in closed] == [QueueUnavailable] * 2
