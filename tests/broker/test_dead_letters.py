"""Dead letters: what they tell, page by page; replays and purges, each safe to repeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    DeadLetter,
    DeadLetters,
    JobQueue,
    Priority,
    QueueOptions,
    State,
    WorkerQueue,
    keys,
    new_job_id,
)
from camserve.errors import DeadLetterNotFound, NotReplayable, QueueFull
from tests.broker.jobs import (
    MODEL,
    assert_at_rest,
    begin_one,
    eventually,
    kill,
    submit,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def options() -> QueueOptions:
    return QueueOptions(lease_s=0.2, max_attempts=2, job_ttl_s=60, dead_letter_cap=3)


@pytest.fixture
def letters(redis: Redis, options: QueueOptions) -> DeadLetters:
    return DeadLetters(redis, options)


async def replay(letters: DeadLetters, letter: DeadLetter, **changes: Any) -> str:
    given: dict[str, Any] = {
        "job_id": new_job_id(MODEL),
        "document": b"again",
        "listed": True,
        "delivery_life_ms": None,
    }
    return await letters.replay(letter, **given | changes)


async def test_what_a_letter_tells(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    job_id = await kill(queue, redis, options, document=b"what", priority=Priority.BULK)
    record = await queue.get(job_id)
    assert record is not None
    (letter,) = (await letters.page(10)).letters
    assert (letter.id, letter.model, letter.document) == (job_id, MODEL, b"what")
    assert (letter.priority, letter.execution) == (Priority.BULK, "auto")
    assert (letter.created_ms, letter.deadline_ms) == (record.created_ms, record.deadline_ms)
    assert letter.died_ms == record.completed_ms
    assert letter.replayable_until_ms == letter.died_ms + options.job_ttl_ms
    assert (letter.replay_id, letter.replay_state) == (None, None)
    assert [one.worker for one in letter.attempts] == ["dead0", "dead1"]
    assert [one.ended_by for one in letter.attempts] == ["death"] * 2
    times = [time for one in letter.attempts for time in (one.started_ms, one.ended_ms)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert letter.created_ms <= letter.attempts[0].started_ms
    assert await letters.get(job_id) == letter
    await assert_at_rest(redis)


async def test_a_worker_that_fell_silent_is_told_from_one_that_died(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    job_id = await submit(queue)
    await begin_one(WorkerQueue(redis, options, "frozen"))
    heir = WorkerQueue(redis, options, "heir")
    (claim,) = await eventually(lambda: heir.reclaim([MODEL]))
    assert await heir.begin(claim)
    await WorkerQueue.release_consumer(redis, options, "heir", [MODEL])
    (claim,) = await heir.claim([MODEL], 1, 0)
    assert await heir.begin(claim) is None
    attempts = (await letters.get(job_id)).attempts
    assert [(one.worker, one.ended_by) for one in attempts] == [
        ("frozen", "lease"),
        ("heir", "death"),
    ]


async def test_pages_over_all_models_and_of_one(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    ids = [await kill(queue, redis, options, model=model) for model in ("a", "b", "a", "b", "a")]
    found: list[str] = []
    cursor = None
    for size in (2, 2, 1):
        page = await letters.page(2, cursor=cursor)
        assert len(page.letters) == size
        found += [one.id for one in page.letters]
        assert (page.cursor is None) is (size == 1)
        cursor = page.cursor
    assert found == ids[::-1]
    assert [one.id for one in (await letters.page(10, model="b")).letters] == [ids[3], ids[1]]
    assert await letters.page(10, model="c") == ((), None)


async def test_the_oldest_make_room(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    ids = [await kill(queue, redis, options) for _ in range(options.dead_letter_cap + 1)]
    assert [one.id for one in (await letters.page(10)).letters] == ids[:0:-1]
    assert not await redis.exists(keys.letter(MODEL, ids[0]))
    with pytest.raises(DeadLetterNotFound):
        await letters.get(ids[0])


async def test_letters_are_kept_longer_than_jobs_and_found_without_a_worker(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    job_id = await kill(queue, redis, options)
    await redis.delete(keys.job(MODEL, job_id), keys.payload(MODEL, job_id))  # their life is over
    for name in (keys.letter(MODEL, job_id), keys.dead_letters(MODEL), keys.QUEUES):
        assert await redis.pttl(name) > options.dead_letter_ttl_ms - 5_000, name
    (letter,) = (await letters.page(10)).letters
    assert (letter.id, letter.replayable_until_ms) == (job_id, None)
    with pytest.raises(NotReplayable):
        await replay(letters, letter)
    await redis.delete(keys.letter(MODEL, job_id))
    assert await letters.page(10) == ((), None)
    assert not await redis.exists(keys.dead_letters(MODEL)), "struck off once it is seen"


async def test_a_replay_is_a_new_job_with_all_that_the_dead_one_had(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    job_id = await kill(
        queue, redis, options, payload=b"deadly", attachments={"picture": b"png"},
        priority=Priority.BULK, time_to_deadline_ms=7000,
    )  # fmt: skip
    dead = await queue.get(job_id)
    again = await replay(letters, await letters.get(job_id))
    assert again != job_id
    record = await queue.get(again)
    assert record is not None
    assert (record.state, record.attempts, record.priority) == (State.QUEUED, 0, Priority.BULK)
    assert record.deadline_ms - record.created_ms == 7000
    assert await redis.zscore(keys.recent(MODEL), again) == 0
    letter = await letters.get(job_id)
    assert (letter.replay_id, letter.replay_state) == (again, State.QUEUED)
    assert await queue.get(job_id) == dead, "a terminal state never changes"
    worker = WorkerQueue(redis, options, "w")
    begun = await begin_one(worker)
    assert (begun.payload, begun.document, begun.redelivered) == (b"deadly", b"again", False)
    assert await queue.attachment(again, "picture") == b"png"
    assert await worker.finish(begun, b"survived")
    assert (await letters.get(job_id)).replay_state is State.SUCCEEDED
    assert await queue.result(again) == b"survived"
    await assert_at_rest(redis)


async def test_a_replay_that_is_open_is_not_made_twice(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    letter = await letters.get(await kill(queue, redis, options))
    both = await asyncio.gather(*(replay(letters, letter) for _ in range(2)))
    assert both[0] == both[1]
    assert await queue.depth(MODEL) == 1
    await kill(queue, redis, options, both[0])
    later = await replay(letters, letter)
    assert later not in both
    assert {one.id for one in (await letters.page(10)).letters} == {letter.id, both[0]}


async def test_a_replay_whose_reply_was_lost_is_the_same(
    queue: JobQueue,
    redis: Redis,
    options: QueueOptions,
    letters: DeadLetters,
    monkeypatch: pytest.MonkeyPatch,
):
    letter = await letters.get(await kill(queue, redis, options))
    monkeypatch.setattr("secrets.token_hex", lambda _: "same-call")
    job_id = new_job_id(MODEL)
    assert await replay(letters, letter, job_id=job_id) == job_id
    await queue.cancel(job_id)
    assert await replay(letters, letter, job_id=job_id) == job_id
    assert await queue.depth(MODEL) == 0
    await letters.purge()
    assert await replay(letters, letter, job_id=job_id) == job_id, "it was accepted before that"


async def test_a_full_queue_takes_no_replay(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    letter = await letters.get(await kill(queue, redis, options))
    full = DeadLetters(redis, QueueOptions(depth_cap=1))
    await submit(queue)
    with pytest.raises(QueueFull):
        await replay(full, letter)
    assert (await letters.get(letter.id)).replay_id is None


async def test_removing_one_takes_its_input_along(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    kept, removed = [
        await kill(queue, redis, options, attachments={"picture": b"png"}) for _ in range(2)
    ]
    assert [await letters.remove(removed) for _ in range(2)] == [1, 0]
    for name in (keys.payload(MODEL, removed), keys.attachments(MODEL, removed)):
        assert not await redis.exists(name)
    assert [one.id for one in (await letters.page(10)).letters] == [kept]
    record = await queue.get(removed)
    assert record is not None
    assert record.state is State.DEAD
    for wrong in ("../x", "01JD8Q4V1N0Z7M3K5T9W2XACBE", f"{kept}}}"):
        with pytest.raises(DeadLetterNotFound):
            await letters.remove(wrong)


async def test_an_open_job_is_not_removed(queue: JobQueue, redis: Redis, letters: DeadLetters):
    job_id = await submit(queue)
    assert await letters.remove(job_id) == 0
    assert await redis.exists(keys.payload(MODEL, job_id))
    with pytest.raises(DeadLetterNotFound):
        await letters.get(job_id)


async def test_purging_one_model_or_all(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    assert await letters.purge() == 0
    for model in ("a", "a", "b"):
        await kill(queue, redis, options, model=model)
    assert [await letters.purge("a") for _ in range(2)] == [2, 0]
    assert [one.model for one in (await letters.page(10)).letters] == ["b"]
    assert await letters.purge() == 1
    assert await letters.page(10) == ((), None)


async def test_a_letter_of_a_job_that_an_older_version_began(
    queue: JobQueue, redis: Redis, options: QueueOptions, letters: DeadLetters
):
    """It noted no attempts; the letter is written all the same."""
    job_id = await submit(queue)
    await begin_one(WorkerQueue(redis, options, "w"))
    await redis.hdel(keys.job(MODEL, job_id), "begun")
    await redis.hset(keys.job(MODEL, job_id), "attempts", options.max_attempts)
    await WorkerQueue.release_consumer(redis, options, "w", [MODEL])
    worker = WorkerQueue(redis, options, "w2")
    (claim,) = await worker.claim([MODEL], 1, 0)
    assert await worker.begin(claim) is None
    assert (await letters.get(job_id)).attempts == ()
