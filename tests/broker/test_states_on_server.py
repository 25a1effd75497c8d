"""The scripts make the moves of the pure state machine, pair by pair, and no others."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from redis.asyncio import Redis

from camserve.broker import Begun, Claim, JobQueue, QueueOptions, State, WorkerQueue, keys
from camserve.contracts.states import Event, transition
from tests.broker.jobs import MODEL, begin_one, claim_one, submit

pytestmark = pytest.mark.anyio

OPTIONS = QueueOptions(lease_s=0.001, max_attempts=2)


class Life:
    """One job that can be put into any state and be sent any event."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.queue = JobQueue(redis, OPTIONS)
        self.worker = WorkerQueue(redis, OPTIONS, "w")
        self.claim: Claim | None = None
        self.begun: Begun | None = None

    async def reach(self, state: State) -> None:
        self.job_id = await submit(self.queue)
        if state is State.QUEUED:
            return
        self.begun = await begin_one(self.worker)
        self.claim = self.begun.claim
        how = {
            State.SUCCEEDED: Event.SUCCEED,
            State.FAILED: Event.FAIL,
            State.CANCELED: Event.STOP,
            State.EXPIRED: Event.EXPIRE,
            State.DEAD: Event.GIVE_UP,
        }
        if state in how:
            await self.send(how[state])

    async def state(self) -> State:
        record = await self.queue.get(self.job_id)
        assert record is not None
        return record.state

    async def send(self, event: Event) -> None:
        await getattr(self, f"_{event.value}")()

    async def _begin(self) -> None:
        if self.begun is not None:
            await WorkerQueue.release_consumer(self.redis, OPTIONS, "w", [MODEL])
        claims = await self.worker.claim([MODEL], 1, 0)
        claim = claims[0] if claims else self.claim
        if claim is not None:
            await self.worker.begin(claim)

    def _held(self) -> Begun:
        """What a worker holds; for a job that never began, what one would make up."""
        if self.begun is not None:
            return self.begun
        claim = Claim(self.job_id, MODEL, "interactive", "0-1")
        return Begun(
            self.job_id,
            "made-up",
            b"",
            b"",
            1,
            0,
            redelivered=False,
            claim=claim,
            begun_s=0,
            queued_ms=0,
        )

    async def _succeed(self) -> None:
        await self.worker.finish(self._held(), b"r")

    async def _fail(self) -> None:
        await self.worker.fail(self._held(), b"{}")

    async def _cancel(self) -> None:
        await self.queue.cancel(self.job_id)

    async def _stop(self) -> None:
        if await self.state() is State.QUEUED:
            return  # no request could be pending: cancel closes a queued job itself
        await self.queue.cancel(self.job_id)
        await self.worker.finish(self._held(), b"r")

    async def _expire(self) -> None:
        if await self.redis.exists(keys.job(MODEL, self.job_id)):
            await self.redis.hset(keys.job(MODEL, self.job_id), "deadline_ms", 0)
        await asyncio.sleep(0.002)
        await self.queue.reap()

    async def _give_up(self) -> None:
        if await self.state() is State.QUEUED:
            return  # it has all its attempts before it
        for _ in range(OPTIONS.max_attempts):
            await self._begin()


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
async def test_every_pair(redis: Redis, state: State, event: Event):
    life = Life(redis)
    await life.reach(state)
    assert await life.state() is state
    try:
        expected = transition(state, event)
    except ValueError:
        expected = state  # what cannot happen changes nothing
    await life.send(event)
    assert await life.state() is expected
    if expected is not State.SUCCEEDED:
        assert await life.queue.result(life.job_id) is None


async def test_begin_itself_expires_a_late_job(redis: Redis):
    life = Life(redis)
    await life.reach(State.QUEUED)
    await redis.hset(keys.job(MODEL, life.job_id), "deadline_ms", 0)
    assert await life.worker.begin(await claim_one(life.worker)) is None
    assert await life.state() is State.EXPIRED
