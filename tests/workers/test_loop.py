"""The worker's loop in this process, on a real server: claims, answers, cards, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import JobQueue, JobRecord, Priority, Registry, WorkerQueue, connect, keys
from camserve.broker import new_job_id
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.states import State
from camserve.contracts.targets import ClassIndexTarget
from camserve.errors import QueueUnavailable
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.workers import jobs
from tests.workers.cards import TINY, factory_card, settings, write_model
from tests.workers.factories import FAULTY, SLOW
from tests.workers.jobs import enqueue, load_job, noise, read
from workers import loop as loop_module
from workers.loop import WorkerLoop
from workers.repository import scan

pytestmark = pytest.mark.anyio


class Bench:
    """One worker's loop, and the front end's side of its queue."""

    def __init__(self, redis: Redis, models: Path, settings: Settings) -> None:
        options = queue_options(settings)
        self.redis = redis
        self.queue = JobQueue(redis, options)
        self.registry = Registry(redis, options)
        self.worker_queue = WorkerQueue(redis, options, "w1")
        self.loop = WorkerLoop(
            queue=self.worker_queue,
            registry=self.registry,
            repository=scan(models),
            settings=settings,
            worker="w1",
            device="cpu",
        )

    async def done(self, job_id: str) -> JobRecord:
        record = await self.queue.wait(job_id, 10)
        assert record is not None
        assert record.is_terminal, record.state
        return record

    async def answer(self, job_id: str) -> Any:
        """Metadata and maps of a job that succeeds."""
        record = await self.done(job_id)
        assert record.state is State.SUCCEEDED, record.failure
        return read(await self.queue.result(job_id))

    async def card(self, model: str) -> ResolvedCard | None:
        card = await self.registry.card(model)
        return ResolvedCard.model_validate_json(card) if card else None

    async def state(self, model: str) -> str | None:
        card = await self.card(model)
        return card.state if card else None

    async def status(self) -> WorkerStatus | None:
        status = (await self.registry.workers()).get("w1")
        return WorkerStatus.model_validate_json(status) if status else None


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(10):
        while not (found := await look()):
            await asyncio.sleep(0.005)
    return found


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "tiny", TINY)
    write_model(folder, "slow", factory_card("misbehaving", folder=str(tmp_path)))
    return folder


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(redis_url) as client:
        yield client


Start = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def start(
    redis: Redis, models: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Starts a loop, with the settings given; it must stop cleanly when the test ends."""
    monkeypatch.setattr(loop_module, "BLOCK_S", 0.02)
    monkeypatch.setattr(loop_module, "HEARTBEAT_S", 0.05)
    running: list[tuple[Bench, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> Bench:
        bench = Bench(redis, models, settings(preload="none", **changes))
        await bench.queue.start()
        running.append((bench, asyncio.create_task(bench.loop.run())))
        await eventually(bench.status)
        return bench

    yield start
    for bench, task in running:
        bench.loop.stop()
        async with asyncio.timeout(10):
            await task
        assert await bench.status() is None  # it took itself off the list
        await bench.queue.aclose()


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


async def test_waiting_jobs_of_several_requests_share_a_forward(start: Start, tmp_path: Path) -> None:
    bench = await start(max_batch=4)
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))
    blocker = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    ids = [await enqueue(bench.queue, noise(i), model="slow") for i in range(1, 5)]
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    sizes = [(await bench.answer(job_id))[0].batch_size for job_id in ids]
    assert sizes == [4, 4, 4, 4]


async def test_large_jobs_are_committed_one_by_one(start: Start, tmp_path: Path) -> None:
    """A small job need not wait for the forwards of the large ones that came with it."""
    bench = await start(max_batch=2)
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
    await eventually(lambda: _state_is(bench, waiting, State.RUNNING))
    await bench.answer(await enqueue(bench.queue, noise(2)))
    gate.set()
    await bench.answer(waiting)


async def _state_is(bench: Bench, job_id: str, state: State) -> bool:
    record = await bench.queue.get(job_id)
    return record is not None and record.state is state


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
    monkeypatch.setattr(loop_module, "explain_jobs", explain)
    unwanted, wanted = [await enqueue(bench.queue, noise(i)) for i in (1, 2)]
    await eventually(lambda: _state_is(bench, unwanted, State.RUNNING))
    await bench.queue.cancel(unwanted)
    gate.set()
    assert (await bench.done(unwanted)).state is State.CANCELED
    assert (await bench.done(wanted)).state is State.SUCCEEDED
    assert computed == [wanted]


async def test_a_load_job_loads_and_says_so_again(start: Start, redis: Redis) -> None:
    bench = await start()
    assert (await bench.done(await load_job(bench.queue, "tiny"))).state is State.SUCCEEDED
    assert await bench.state("tiny") == "ready"
    # the server lost the card alone, or another worker's failure replaced it
    await redis.hdel(keys.CARDS, "tiny")
    assert (await bench.done(await load_job(bench.queue, "tiny"))).state is State.SUCCEEDED
    assert await bench.state("tiny") == "ready"


async def test_a_load_that_fails_says_why(start: Start, models: Path) -> None:
    write_model(models, "bad", factory_card("raising"))
    bench = await start()
    record = await bench.done(await load_job(bench.queue, "bad"))
    assert record.state is State.FAILED
    assert jobs.failure(record)["code"] == "model_unavailable"
    explained = await bench.done(await enqueue(bench.queue, noise(0), model="bad"))
    assert "the disk is full" in jobs.failure(explained)["detail"]
    card = await bench.card("bad")
    assert card is not None
    assert card.problem is not None
    assert (card.state, card.problem.code) == ("unavailable", "model_unavailable")
    await bench.answer(await enqueue(bench.queue, noise(0)))


async def test_bad_folders_harm_nobody(start: Start, models: Path) -> None:
    write_model(models, "Bad Name", TINY)
    write_model(models, "broken", "source = ")
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert sorted(await bench.registry.cards()) == ["broken", "slow", "tiny"]
    card = await bench.card("broken")
    assert card is not None
    assert card.problem is not None
    assert card.problem.code == "invalid_card"


async def test_what_another_version_of_camserve_wrote_harms_nobody(
    start: Start, redis: Redis
) -> None:
    await redis.hset(keys.CARDS, "tiny", b'{"from": "the future"}')
    await redis.hset(keys.CARDS, "theirs", b'{"from": "the future"}')
    registry = Registry(redis, queue_options(settings()))
    await registry.heartbeat("w9", b'{"also": "from there"}')
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert await bench.state("tiny") == "ready"
    assert "theirs" in await bench.registry.cards()  # w9 may well serve it


async def test_cards_of_models_that_are_gone_are_dropped(start: Start, redis: Redis) -> None:
    await redis.hset(keys.CARDS, "gone", b"{}")
    bench = await start()
    assert sorted(await bench.registry.cards()) == ["slow", "tiny"]


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
        patch.setattr(loop_module, "explain_jobs", fail)
        first = await bench.done(await enqueue(bench.queue, noise(0)))  # beside, after the load
        second = await bench.done(await enqueue(bench.queue, noise(1)))  # in the loop itself
    assert {first.state, second.state} == {State.FAILED}
    await bench.answer(await enqueue(bench.queue, noise(2)))


async def test_background_tasks_survive_any_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were the renewal of leases to die unseen, every long job would be done twice."""
    bench = await start(lease_s=0.15)
    calls = 0
    extend = bench.worker_queue.extend

    async def flaky(held: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("something new")
        if calls == 2:
            raise QueueUnavailable
        return await extend(held)

    monkeypatch.setattr(bench.worker_queue, "extend", flaky)

    async def called() -> bool:
        return calls > 4

    await eventually(called)
    assert "something new" in caplog.text
    assert "Redis is away" in caplog.text


async def test_leases_are_renewed_while_a_long_job_runs(start: Start, tmp_path: Path) -> None:
    bench = await start(lease_s=0.15)
    slow = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    rival = WorkerQueue(bench.redis, queue_options(settings(lease_s=0.15)), "w2")
    for _ in range(5):
        await asyncio.sleep(0.1)  # three leases in all
        assert await rival.reclaim(["slow"]) == []
    (tmp_path / "go").touch()
    await bench.answer(slow)
    record = await bench.queue.get(slow)
    assert record is not None
    assert record.attempts == 1


async def test_a_server_that_lost_everything_is_told_everything(
    start: Start, redis: Redis
) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0)))
    await redis.flushall()
    await eventually(bench.status)
    assert await eventually(lambda: bench.state("tiny")) == "ready"
    assert await eventually(lambda: bench.state("slow")) == "declared"
    await bench.answer(await enqueue(bench.queue, noise(0)))


async def test_a_card_that_an_outage_kept_back_is_published_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start()
    publish = bench.registry.publish_card
    outages = 1

    async def flaky(model: str, card: bytes) -> None:
        nonlocal outages
        if outages:
            outages -= 1
            raise QueueUnavailable
        await publish(model, card)

    monkeypatch.setattr(bench.registry, "publish_card", flaky)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert outages == 0

    async def ready() -> bool:
        return await bench.state("tiny") == "ready"

    await eventually(ready)


async def test_a_claim_outlasts_an_outage_before_it_begins(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would lie until its lease runs out: half a minute."""
    bench = await start()
    begin = bench.worker_queue.begin_batch
    outages = 2

    async def flaky(claims: Any) -> Any:
        nonlocal outages
        if outages:
            outages -= 1
            raise QueueUnavailable
        return await begin(claims)

    monkeypatch.setattr(loop_module, "OUTAGE_PAUSE_S", 0.01)
    monkeypatch.setattr(bench.worker_queue, "begin_batch", flaky)
    await bench.answer(await enqueue(bench.queue, noise(0)))
    assert outages == 0


async def test_stopping_finishes_what_runs_and_hands_the_rest_back(
    start: Start, tmp_path: Path
) -> None:
    bench = await start(max_batch=1)
    await bench.answer(await enqueue(bench.queue, noise(9), model="slow"))
    running = await enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    waiting = await enqueue(bench.queue, noise(1), model="slow")
    bench.loop.stop()
    (tmp_path / "go").touch()
    await bench.answer(running)

    async def gone() -> bool:
        return await bench.status() is None

    await eventually(gone)
    assert await _state_is(bench, waiting, State.QUEUED)
    other = WorkerQueue(bench.redis, queue_options(settings()), "w2")
    (claim,) = await other.claim(["slow"], 8, 0.1)
    assert (claim.job_id, claim.redelivered) == (waiting, False)


async def test_stopping_does_not_wait_for_a_load_at_start(
    redis: Redis, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis, models, settings(preload="local"))
    loading = asyncio.Event()

    async def hang(_name: str) -> None:
        loading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.loop._residency, "load", hang)
    task = asyncio.create_task(bench.loop.run())
    await loading.wait()
    bench.loop.stop()
    async with asyncio.timeout(2):
        await task


async def test_a_loop_without_models_waits(redis: Redis, tmp_path: Path) -> None:
    bench = Bench(redis, tmp_path / "nothing", settings())
    task = asyncio.create_task(bench.loop.run())
    status = await eventually(bench.status)
    assert status.models == ()
    bench.loop.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await task
