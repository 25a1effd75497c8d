"""What was computed answers later jobs, which are as if a worker had computed them again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    DeadLetters,
    Deliveries,
    JobQueue,
    ModelCensus,
    Priority,
    QueueOptions,
    RecentJobs,
    ResultCache,
    State,
    Totals,
    WorkerQueue,
    keys,
    new_job_id,
)
from camserve.errors import IdempotencyConflict, QueueFull
from tests.broker.conftest import WorkerMaker
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    eventually,
    expire,
    kill,
    submit,
    time_passes,
)
from tests.broker.test_totals import counts

pytestmark = pytest.mark.anyio

DIGEST = "d" * 64
OVERHEAD = 700  # of an entry, besides its value
MOST = 16_000  # of which an entry may be a sixteenth
RESULT = b"r" * (1000 - OVERHEAD)
PREFIX = keys.prefix(MODEL)


@pytest.fixture
def options() -> QueueOptions:
    return QueueOptions(lease_s=0.2, job_ttl_s=60, depth_cap=2, result_cache_bytes=MOST)


@pytest.fixture
def cache(redis: Redis, options: QueueOptions) -> ResultCache:
    return ResultCache(redis, options)


@pytest.fixture
def compute(queue: JobQueue, worker: WorkerMaker) -> Callable[..., Awaitable[str]]:
    """A job of that digest, from the queue to its end."""

    async def job(digest: str = DIGEST, result: bytes = RESULT, **changes: Any) -> str:
        computed = changes.pop("computed", digest)
        job_id = await submit(queue, digest=digest, **changes)
        assert await worker().finish(await begin_one(worker()), result, computed)
        return job_id

    return job


async def recall(cache: ResultCache, digest: str = DIGEST, **changes: Any) -> str | None:
    """The id of a job that an earlier result answers."""
    job = {
        "job_id": new_job_id(MODEL),
        "digest": digest,
        "priority": Priority.INTERACTIVE,
        "time_to_deadline_ms": 10_000,
        "document": b"{}",
    } | changes
    enqueued = await cache.recall(**job)
    return enqueued and enqueued.job_id


async def census(redis: Redis) -> ModelCensus:
    return (await Totals(redis).census()).models[MODEL]


async def held(redis: Redis) -> tuple[int, int]:
    """Entries and bytes, as metrics tell them; which is what is there."""
    now = await census(redis)
    sizes = await redis.hgetall(f"{PREFIX}cached-bytes")
    assert int(sizes.pop(b"all", 0)) == sum(map(int, sizes.values())) == now.cached_bytes
    there = [key async for key in redis.scan_iter(f"{PREFIX}cache:*".replace("{", "[{]"))]
    found = {key.decode().removeprefix(f"{PREFIX}cache:").encode() for key in there}
    for index in ("cached", "cached-until"):
        assert set(await redis.zrange(f"{PREFIX}{index}", 0, -1)) == set(sizes)
    assert found == set(sizes)
    assert now.cached_bytes == sum([await redis.strlen(key) + OVERHEAD for key in there])
    return now.cached_results, now.cached_bytes


async def test_a_result_answers_a_later_job(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    first = await compute(attachments={"picture.0": b"theirs"}, document=b"first")
    await time_passes(redis)
    await redis.delete(keys.QUEUES)
    again = await recall(cache, document=b"again", attachments={"picture.0": b"ours"}, listed=True)
    assert again is not None
    assert await redis.smembers(keys.QUEUES) == {MODEL.encode()}, "the reaper would pass it over"
    for name in (keys.job, keys.result, keys.attachments):
        assert await redis.pttl(name(MODEL, again)) <= 60_000, "a closed job has `job_ttl_s`"
    assert again != first
    record = await queue.get(again)
    assert record is not None
    assert (record.state, record.document) == (State.SUCCEEDED, b"again")
    assert (record.attempts, record.started_ms) == (0, None)
    assert record.completed_ms == record.created_ms
    assert record.deadline_ms == record.created_ms + 10_000
    assert (record.lookup, record.is_stored) == ("hit", False)
    assert await queue.result(again) == RESULT
    assert await queue.attachment(again, "picture.0") == b"ours"
    assert await queue.attachment(first, "picture.0") == b"theirs"
    assert await queue.wait(again, 0) == record
    page = await RecentJobs(redis).page(10)
    assert page.jobs == (record,)
    earlier = await queue.get(first)
    assert earlier is not None
    assert earlier.is_stored
    assert await held(redis) == (1, 1000)
    await assert_at_rest(redis)
    # each has its own life
    assert await queue.discard(first)
    assert await queue.result(again) == RESULT
    assert await queue.discard(again)
    assert await recall(cache) is not None


async def test_what_is_not_known_leaves_nothing_behind(redis: Redis, cache: ResultCache) -> None:
    answered = await recall(
        cache, attachments={"picture.0": b"x"}, idempotency_key="k", fingerprint="f", listed=True
    )
    assert answered is None
    assert await redis.keys() == []


async def test_what_goes_between_the_question_and_the_answer(
    redis: Redis, cache: ResultCache, compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compute()
    await redis.delete(keys.cached_result(MODEL, DIGEST, "auto"))
    known = set(await redis.keys())

    async def knows(redis: Redis, *commands: Any) -> list[Any]:
        return [1] if commands[0][0] == "EXISTS" else await execute(redis, *commands)

    from camserve.broker import result_cache

    execute = result_cache.execute
    monkeypatch.setattr(result_cache, "execute", knows)
    assert await recall(cache, attachments={"picture.0": b"x"}) is None
    assert set(await redis.keys()) == known


async def test_it_needs_neither_a_worker_nor_room_and_tells_no_pace(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    await compute()
    for _ in range(2):
        await submit(queue)
    with pytest.raises(QueueFull):
        await submit(queue)
    pace = await redis.hgetall(keys.pace(MODEL))
    assert await recall(cache) is not None
    assert await redis.hgetall(keys.pace(MODEL)) == pace
    assert await queue.depth(MODEL) == 2


async def test_it_is_found_by_the_idempotency_key_of_its_request(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    await compute()
    key = {"idempotency_key": "k", "idempotency_owner": "me", "fingerprint": "f"}
    job_id = await recall(cache, **key)
    assert job_id is not None
    assert await recall(cache, **key, attachments={"picture.0": b"x"}) == job_id
    assert await recall(cache, **(key | {"idempotency_owner": "you"})) != job_id
    assert await submit(queue, **key) == job_id, "when the result has gone"
    for other in (recall(cache, **(key | {"fingerprint": "g"})),
                  submit(queue, **(key | {"fingerprint": "g"}))):  # fmt: skip
        with pytest.raises(IdempotencyConflict):
            await other
    assert not [name for name in await redis.keys() if b":staged:" in name]


async def test_a_key_of_an_open_job_is_that_job(
    queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    await compute()
    key = {"idempotency_key": "k", "fingerprint": "f"}
    waiting = await submit(queue, **key)
    assert await recall(cache, **key) == waiting
    assert await recall(cache, job_id=waiting) == waiting, "the same id is the same job"
    record = await queue.get(waiting)
    assert record is not None
    assert record.state is State.QUEUED


async def test_a_call_that_is_sent_again_is_the_same_job(
    redis: Redis, cache: ResultCache, compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client library does after a connection that broke before the reply came."""
    await compute()
    monkeypatch.setattr("camserve.broker.result_cache.secrets.token_hex", lambda _: "nonce")
    job_id = new_job_id(MODEL)
    call = {"job_id": job_id, "attachments": {"picture.0": b"x"}, "delivery_life_ms": 1000}
    enqueued = [await cache.recall(**_asked(**call)) for _ in range(2)]
    assert [(one.job_id, one.duplicate) for one in enqueued if one] == [(job_id, False)] * 2
    assert (await counts(redis))["result_cache_lookups|hit"] == 1
    assert await redis.zcard(keys.deliveries(MODEL)) == 1
    assert not [name for name in await redis.keys() if b":staged:" in name]


def _asked(**changes: Any) -> dict[str, Any]:
    return {
        "digest": DIGEST,
        "priority": Priority.INTERACTIVE,
        "time_to_deadline_ms": 10_000,
        "document": b"{}",
    } | changes


async def test_whoever_is_to_be_told_is_told_at_once(
    redis: Redis, queue: JobQueue, cache: ResultCache, options: QueueOptions, compute: Any
) -> None:
    await compute()
    deliveries = Deliveries(redis, options)
    with queue.news_of_deliveries() as news:
        news.clear()
        job_id = await recall(cache, delivery_life_ms=500_000)
        await news.wait()
    assert [one.job_id for one in await deliveries.claim(10, 5.0)] == [job_id]
    assert await redis.pttl(keys.result(MODEL, job_id or "")) > 400_000
    await assert_at_rest(redis)


async def test_a_terminal_state_never_changes(
    redis: Redis, queue: JobQueue, cache: ResultCache, worker: WorkerMaker, compute: Any
) -> None:
    await compute()
    job_id = await recall(cache)
    assert job_id is not None
    before = await queue.get(job_id)
    assert before is not None
    assert await queue.cancel(job_id) == before
    assert await worker().claim([MODEL], 1, 0) == []
    assert await queue.reap() == 0
    assert await queue.get(job_id) == before


async def failed(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    assert await worker.fail(await begin_one(worker), b"{}")


async def canceled(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    begun = await begin_one(worker)
    await queue.cancel(begun.job_id)
    assert await worker.finish(begun, RESULT, DIGEST)


async def expired(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    begun = await begin_one(worker)
    await expire(queue, redis, begun.job_id)
    assert not await worker.finish(begun, RESULT, DIGEST)


async def taken_over(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    begun = await begin_one(worker)
    options = QueueOptions(result_cache_bytes=MOST)
    await WorkerQueue.release_consumer(redis, options, "w1", [MODEL])
    other = WorkerQueue(redis, options, "w2")
    again = await begin_one(other)
    assert not await worker.finish(begun, RESULT, DIGEST)
    assert await other.fail(again, b"{}")


async def by_another_version(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    assert await worker.finish(await begin_one(worker), RESULT, "e" * 64)


async def by_an_older_worker(queue: JobQueue, redis: Redis, worker: WorkerQueue) -> None:
    assert await worker.finish(await begin_one(worker), RESULT)


@pytest.mark.parametrize(
    "end", [failed, canceled, expired, taken_over, by_another_version, by_an_older_worker]
)
async def test_only_what_was_asked_for_and_succeeded_is_kept(
    redis: Redis, queue: JobQueue, cache: ResultCache, worker: WorkerMaker, end: Any
) -> None:
    job_id = await submit(queue, digest=DIGEST, lookup="miss")
    await end(queue, redis, worker())
    assert await recall(cache) is None
    assert await recall(cache, "e" * 64) is None
    assert await held(redis) == (0, 0)
    record = await queue.get(job_id)
    assert record is not None
    assert (record.lookup, record.is_stored) == ("miss", False)


async def test_a_job_without_digest_is_not_kept(
    redis: Redis, queue: JobQueue, worker: WorkerMaker
) -> None:
    await submit(queue, lookup="bypass")
    assert await worker().finish(await begin_one(worker()), RESULT, "")
    assert await held(redis) == (0, 0)


async def test_a_device_that_was_named_has_results_of_its_own(
    redis: Redis, cache: ResultCache, compute: Any
) -> None:
    await compute(execution="cpu")
    assert await recall(cache) is None
    assert await recall(cache, execution="cuda:1") is None
    assert await recall(cache, execution="cpu") is not None
    await compute()
    assert await recall(cache) is not None
    assert await held(redis) == (2, 2000)
    with pytest.raises(ValueError, match="execution"):
        await recall(cache, execution="gpu}:evil")


async def test_a_redelivered_job_keeps_its_device(
    redis: Redis, queue: JobQueue, cache: ResultCache, options: QueueOptions, worker: WorkerMaker
) -> None:
    await submit(queue, digest=DIGEST, execution="cpu")
    await begin_one(worker("dead"))
    await WorkerQueue.release_consumer(redis, options, "dead", [MODEL])
    assert await worker().finish(await begin_one(worker()), RESULT, DIGEST)
    assert await recall(cache, execution="cpu") is not None
    assert await recall(cache) is None


async def test_what_was_not_used_for_longest_goes_first(
    redis: Redis, cache: ResultCache, compute: Any
) -> None:
    names = [f"{number:064}" for number in range(17)]
    for name in names[:16]:
        await compute(name)
        await time_passes(redis)
    assert await held(redis) == (16, MOST)
    assert await recall(cache, names[0]) is not None
    await time_passes(redis)
    await compute(names[16])
    assert await held(redis) == (16, MOST)
    assert await recall(cache, names[1]) is None
    for name in (names[0], *names[2:]):
        assert await recall(cache, name) is not None
    assert (await counts(redis))["result_cache_evictions"] == 1
    await assert_at_rest(redis)


async def test_a_larger_one_takes_the_room_of_several(redis: Redis, compute: Any) -> None:
    for number in range(20):
        await compute(f"{number:064}", b"r" * (800 - OVERHEAD))
    assert await held(redis) == (20, MOST)
    await compute("f" * 64, RESULT)
    assert await held(redis) == (19, 18 * 800 + 1000)
    assert (await counts(redis))["result_cache_evictions"] == 2


async def test_one_that_would_drive_out_all_others_is_not_kept(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    await compute(result=RESULT + b"r")
    assert await recall(cache) is None
    await compute(result=RESULT)
    assert await recall(cache) is not None
    assert await held(redis) == (1, 1000)


async def test_a_fresh_result_takes_the_place_of_the_older_one(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    old = await compute(result=b"old")
    await compute(result=b"newer")
    again = await recall(cache)
    assert again is not None
    assert await queue.result(again) == b"newer"
    assert await queue.result(old) == b"old"
    assert await held(redis) == (1, OVERHEAD + 5)


async def test_a_result_passes_away_however_often_it_is_used(
    redis: Redis, queue: JobQueue, compute: Any, worker: WorkerMaker
) -> None:
    brief = QueueOptions(result_cache_bytes=MOST, result_cache_ttl_s=0.05)
    cache = ResultCache(redis, brief)
    await submit(queue, digest=DIGEST)
    short = WorkerQueue(redis, brief, "short")
    assert await short.finish(await begin_one(short), RESULT, DIGEST)

    async def has_gone() -> bool:
        return await recall(cache) is None

    await eventually(has_gone)
    await queue.reap()
    assert await held(redis) == (0, 0)
    assert "result_cache_evictions" not in await counts(redis), "it did not have to make room"


async def test_a_smaller_cache_or_none_lets_go_of_what_is_there(
    redis: Redis, queue: JobQueue, compute: Any
) -> None:
    for number in range(5):
        await compute(f"{number:064}")
    await JobQueue(redis, QueueOptions(result_cache_bytes=3999)).reap()
    assert await held(redis) == (3, 3000)
    await JobQueue(redis, QueueOptions()).reap()
    assert await held(redis) == (0, 0)


async def test_a_value_that_the_server_evicted(
    redis: Redis, cache: ResultCache, compute: Any
) -> None:
    await compute()
    await redis.delete(keys.cached_result(MODEL, DIGEST, "auto"))
    assert await recall(cache) is None
    await compute()
    assert await recall(cache) is not None
    assert await held(redis) == (1, 1000)


@pytest.mark.parametrize("index", ["cached", "cached-until", "cached-bytes"])
async def test_an_index_that_the_server_evicted(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any, index: str
) -> None:
    for number in range(16):
        await compute(f"{number:064}")
    await redis.delete(f"{PREFIX}{index}")
    assert await recall(cache, f"{0:064}") is not None
    for number in range(16, 70):
        await compute(f"{number:064}")
    await assert_at_rest(redis)
    assert (await census(redis)).cached_bytes <= MOST
    for number in range(69, 60, -1):
        assert await recall(cache, f"{number:064}") is not None
    await JobQueue(redis, QueueOptions()).reap()
    now = await census(redis)
    assert (now.cached_results, now.cached_bytes) == (0, 0)


@pytest.mark.parametrize("index", ["cached", "cached-until", "cached-bytes"])
async def test_a_cache_that_cannot_be_written_fails_no_job(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any, index: str
) -> None:
    await compute("e" * 64)
    await redis.set(f"{PREFIX}{index}", "no index", px=60_000)
    job_id = await compute()
    record = await queue.get(job_id)
    assert record is not None
    assert (record.state, record.is_stored) == (State.SUCCEEDED, False)
    assert await queue.result(job_id) == RESULT
    assert await redis.exists(keys.cached_result(MODEL, DIGEST, "auto")) == 0
    await assert_at_rest(redis)


async def test_a_replay_is_computed_and_kept(
    redis: Redis, queue: JobQueue, cache: ResultCache, options: QueueOptions, worker: WorkerMaker
) -> None:
    dead = await kill(queue, redis, options)
    letters = DeadLetters(redis, options)
    again = await letters.replay(
        await letters.get(dead), job_id=new_job_id(MODEL), document=b"{}", listed=False,
        delivery_life_ms=None, digest=DIGEST, lookup="bypass",
    )  # fmt: skip
    assert await worker().finish(await begin_one(worker()), RESULT, DIGEST)
    record = await queue.get(again)
    assert record is not None
    assert (record.lookup, record.is_stored) == ("bypass", True)
    assert await recall(cache) is not None


async def test_what_is_counted(
    redis: Redis, queue: JobQueue, cache: ResultCache, compute: Any
) -> None:
    assert await recall(cache) is None
    await compute(lookup="miss")
    await recall(cache)
    await recall(cache)
    await compute(lookup="bypass")
    await compute()
    found = await counts(redis)
    lookups = {k: v for k, v in found.items() if k.startswith("result_cache")}
    assert lookups == {
        "result_cache_lookups|miss": 1,
        "result_cache_lookups|hit": 2,
        "result_cache_lookups|bypass": 1,
    }
    assert found["jobs|succeeded"] == found["jobs_accepted|interactive"] == 3


async def test_it_can_be_switched_off(redis: Redis) -> None:
    assert not ResultCache(redis, QueueOptions()).is_on
    assert ResultCache(redis, QueueOptions(result_cache_bytes=1)).is_on
    with pytest.raises(ValueError, match="result_cache_bytes must be positive"):
        QueueOptions(result_cache_bytes=-1)
