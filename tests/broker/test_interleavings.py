"""Several clients and workers at once, with crashes, stalls, cuts and cancels: what always holds.

The numbers in the comments are those of the invariants of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    Begun,
    JobQueue,
    Priority,
    QueueOptions,
    State,
    WorkerQueue,
    connect,
    fits,
    keys,
    new_job_id,
)
from camserve.errors import QueueFull, QueueUnavailable
from tests.broker.jobs import assert_at_rest, now_ms

pytestmark = pytest.mark.anyio

OPTIONS = QueueOptions(
    lease_s=0.1,
    fallback_look_s=0.05,
    depth_cap=12,
    bulk_depth_cap=8,
    job_ttl_s=60,
    reaper_lock_s=0.2,
)
MODELS = ["a", "b"]
JOBS_PER_CLIENT = 12

DEVICES = ["cpu", "cuda:0", "cuda:1"]
NOWHERE = "cuda:7"
EXECUTIONS = ["auto", "auto", "auto", "cpu", "cuda", "cuda:0", "cuda:1"]

# (4) An open job <=> one stream entry, and (5) the cap; looked at in one atomic step. The streams
# are found by their names: the queue's own set of lanes must know all that hold something.
SNAPSHOT = """
local prefix, depth, open = KEYS[1], 0, 0
local pattern = prefix:gsub('[{}]', '?')
for _, stream in ipairs(redis.call('KEYS', pattern .. 'stream:*')) do
  local lane = stream:sub(#prefix + #'stream:' + 1)
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    depth = depth + 1
    local job = redis.call('HMGET', prefix .. 'job:' .. entry[2][2], 'state', 'entry', 'lane')
    if (job[1] ~= 'queued' and job[1] ~= 'running') or job[2] ~= entry[1] or job[3] ~= lane then
      return {-1, entry[2][2]}
    end
    if lane:find('@') and redis.call('SISMEMBER', prefix .. 'lanes', lane) == 0 then
      return {-2, lane}
    end
  end
end
for _, name in ipairs(redis.call('KEYS', pattern .. 'job:*')) do
  local state = redis.call('HGET', name, 'state')
  if state == 'queued' or state == 'running' then open = open + 1 end
end
return {open, depth}
"""


class Chaos:
    def __init__(self, redis: Redis, queue: JobQueue, seed: int) -> None:
        self.redis, self.queue = redis, queue
        self.random = random.Random(seed)
        self.executions: Counter[str] = Counter()
        self.committed: dict[str, bytes] = {}
        self.never: set[str] = set()
        self.records: dict[str, State] = {}
        self.poison: set[str] = set()
        self.named: dict[str, str] = {}
        self.ahead: dict[WorkerQueue, dict[str, bytes]] = {}
        self.stop = asyncio.Event()
        self.workers = 0
        self.reaped_ms: list[int] = []

    async def client(self) -> None:
        for _ in range(JOBS_PER_CLIENT):
            job_id = new_job_id(self.random.choice(MODELS))
            if self.random.random() < 0.1:
                self.poison.add(job_id)
            nowhere = self.random.random() < 0.05
            self.named[job_id] = NOWHERE if nowhere else self.random.choice(EXECUTIONS)
            deadline_s = 0.5 if nowhere else self.random.choice([0.02, 0.5, 60, 60])
            again = self.random.choice([1, 1, 2])  # (11) the same id twice
            await asyncio.gather(*(self._enqueue(job_id, deadline_s) for _ in range(again)))
            if self.random.random() < 0.2:
                await asyncio.sleep(self.random.random() * 0.05)
                record = None
                with contextlib.suppress(QueueUnavailable):
                    record = await self.queue.cancel(job_id)
                if record and record.state is State.CANCELED and record.attempts == 0:
                    self.never.add(job_id)
            record = await self.queue.wait(job_id, 100)
            assert record is not None
            assert record.is_terminal, record
            self.records[job_id] = record.state

    async def _enqueue(self, job_id: str, deadline_s: float) -> None:
        while True:
            with contextlib.suppress(QueueFull, QueueUnavailable):
                await self.queue.enqueue(
                    job_id=job_id,
                    priority=self.random.choice(list(Priority)),
                    time_to_deadline_ms=round(deadline_s * 1000),
                    payload=job_id.encode(),
                    document=b"{}",
                    execution=self.named[job_id],
                )
                return
            await asyncio.sleep(0.01)

    async def worker(self, device: str) -> None:
        while not self.stop.is_set():
            self.workers += 1
            name = f"w{self.workers}"
            queue = WorkerQueue(self.redis, OPTIONS, name, device)
            # A connection may be cut three times in a row; a worker then starts afresh, too.
            with contextlib.suppress(Crash, QueueUnavailable):
                while not self.stop.is_set():
                    await self._work(queue, device)
            if self.random.random() < 0.5:  # else nobody notices, and the leases must run out
                with contextlib.suppress(QueueUnavailable):
                    await WorkerQueue.release_consumer(self.redis, OPTIONS, name, MODELS)

    async def _work(self, queue: WorkerQueue, device: str) -> None:
        claims = await queue.reclaim(MODELS) if self.random.random() < 0.3 else []
        claims = claims or await queue.claim(MODELS, self.random.choice([1, 4]), 0.02)
        assert len({claim.model for claim in claims}) <= 1
        assert all(fits(self.named[claim.job_id], device) for claim in claims)
        assert len(claims) <= 1 or not any(claim.redelivered for claim in claims)
        if claims and self.random.random() < 0.1:
            await queue.release(claims)
            return
        known = self.ahead.pop(queue, {})
        batch = await queue.begin_batch(claims, known)
        if self.random.random() < 0.5:
            ahead = await queue.claim_ahead(MODELS, 4)
            payloads = zip(ahead, await queue.payloads(ahead), strict=True)
            self.ahead[queue] = {one.job_id: payload for one, payload in payloads if payload}
        for begun in batch:
            self.executions[begun.job_id] += 1
            assert begun.payload == begun.job_id.encode()
        if any(begun.job_id in self.poison for begun in batch) or self.random.random() < 0.05:
            raise Crash
        if self.random.random() < 0.1:
            await asyncio.sleep(OPTIONS.lease_s * 1.5)  # as if stopped: past its lease
        for begun in batch:
            await self._commit(queue, begun)

    async def _commit(self, queue: WorkerQueue, begun: Begun) -> None:
        result = begun.token.encode()
        if await queue.finish(begun, result):
            assert begun.job_id not in self.committed  # (2)
            self.committed[begun.job_id] = result

    async def oversee(self) -> None:
        """Reaper, saboteur and inspector, until the end."""
        while not self.stop.is_set():
            with contextlib.suppress(QueueUnavailable):
                await self.queue.reap()
                self.reaped_ms.append(await now_ms(self.redis))
            if self.random.random() < 0.1:
                kind = self.random.choice(["pubsub", "normal"])
                await self.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            for model in MODELS:
                open_jobs, depth = await self.redis.eval(SNAPSHOT, 1, keys.prefix(model))
                assert open_jobs == depth  # (4)
                assert depth <= OPTIONS.depth_cap + OPTIONS.bulk_depth_cap  # (5)
            await asyncio.sleep(0.01)

    def epsilon_ms(self) -> float:
        """How late a job may be closed: by the second round of the reaper, which may have had to
        wait for a lock whose owner was cut off."""
        longest_ms = max(later - earlier for earlier, later in pairwise(self.reaped_ms))
        return 2 * longest_ms + OPTIONS.reaper_lock_s * 1000


class Crash(Exception):
    """A worker process that is gone from one moment to the next."""


FEW = [pytest.param(seed, id=f"seed{seed}") for seed in range(2)]
MANY = [pytest.param(seed, id=f"seed{seed}", marks=pytest.mark.soak) for seed in range(2, 40)]


@pytest.mark.parametrize("seed", FEW + MANY)
async def test_what_always_holds(redis_url: str, seed: int):
    async with connect(redis_url) as redis, JobQueue(redis, OPTIONS) as queue:
        chaos = Chaos(redis, queue, seed)
        others = [asyncio.create_task(chaos.worker(device)) for device in DEVICES]
        chaos.reaped_ms.append(await now_ms(redis))
        others.append(asyncio.create_task(chaos.oversee()))
        try:
            async with asyncio.timeout(100):
                await asyncio.gather(*(chaos.client() for _ in range(6)))
        finally:
            chaos.stop.set()
            await asyncio.gather(*others)
        chaos.reaped_ms.append(await now_ms(redis))

        assert len(chaos.records) == 6 * JOBS_PER_CLIENT
        assert max(chaos.executions.values()) <= OPTIONS.max_attempts  # (3)
        assert not chaos.never & set(chaos.executions)  # (7)
        lost = {job_id for job_id, execution in chaos.named.items() if execution == NOWHERE}
        assert not lost & set(chaos.executions)
        assert {chaos.records[job_id] for job_id in lost} <= {State.EXPIRED, State.CANCELED}
        for job_id, state in chaos.records.items():
            record = await queue.get(job_id)
            assert record is not None
            assert record.state is state  # (1) and (2): what a waiter saw stays
            assert record.completed_ms is not None
            late_ms = record.completed_ms - record.deadline_ms - OPTIONS.lease_ms
            assert late_ms <= chaos.epsilon_ms()  # (1) and (6)
            result = await queue.result(job_id)
            assert result == (chaos.committed[job_id] if state is State.SUCCEEDED else None)
            # An attempt whose begin got no reply counts, although nothing ran.
            assert chaos.executions[job_id] <= record.attempts <= OPTIONS.max_attempts
            assert state is not State.DEAD or record.attempts == OPTIONS.max_attempts
        reached = Counter(chaos.records.values())
        assert reached[State.SUCCEEDED] > 10, reached
        await assert_at_rest(redis)  # (9)
