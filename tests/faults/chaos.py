"""Faults at random, one after another, in an order that a seed decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack

import psutil
import redis

from tests.faults.hosts import FrontEnd, Host, Worker
from tests.faults.record import Fault
from tests.faults.scene import Scene

__all__ = ["Chaos"]

Deed = Callable[["Chaos"], Awaitable[None]]


class Chaos:
    """every_s: from the beginning of one fault to that of the next, unless it takes longer."""

    def __init__(self, scene: Scene, seed: int, every_s: float) -> None:
        self.scene = scene
        self.dice = random.Random(seed)
        self.every_s = every_s
        self.schedule: list[str] = []
        self._started_s = time.monotonic()
        self._deeds = [deed for deed, times in DEEDS for _ in range(times)]

    async def run(self, end: asyncio.Event) -> None:
        """Until it is told to end; the last fault is over then."""
        clock = asyncio.get_running_loop()
        while not end.is_set():
            next_s = clock.time() + self.every_s
            await self._next()(self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_s):
                    await end.wait()

    def _next(self) -> Deed:
        """Workers take seconds to start: the last one is spared mostly, or nothing would be done
        on a slow machine."""
        while True:
            deed = self.dice.choice(self._deeds)
            if deed not in ENDS_OF_WORKERS or self.dice.random() < 0.1 or self._two_work():
                return deed

    def _two_work(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError):
            return len(self.scene.warm()) > 1
        return False

    def say(self, what: str) -> None:
        self.schedule.append(f"{time.monotonic() - self._started_s:7.2f} s  {what}")

    def host(self) -> Host:
        return self.dice.choice(self.scene.hosts)

    def worker(self) -> Worker:
        return self.dice.choice(list(self.scene.workers.values()))

    def front(self) -> FrontEnd:
        return self.dice.choice(list(self.scene.fronts.values()))

    def span_s(self) -> float:
        return self.dice.uniform(0.2, 0.9) * self.every_s

    async def during(
        self, what: AbstractContextManager[object], name: str, *, is_outage: bool = False
    ) -> None:
        """Something that lasts for a while, and is then as before."""
        span_s = self.span_s()
        self.say(f"{name}, for {span_s:.2f} s")
        with self.scene.record.fault(name, is_outage=is_outage), what:
            await asyncio.sleep(span_s)


async def kill_child(chaos: Chaos) -> None:
    worker = chaos.worker()
    chaos.say(f"the child of {worker.name} is killed")
    worker.kill_child()


async def kill_supervisor(chaos: Chaos) -> None:
    worker = chaos.worker()
    chaos.say(f"the supervisor of {worker.name} is killed, and started again")
    worker.kill()
    await asyncio.sleep(chaos.span_s() / 2)
    worker.start()


async def kill_worker_host(chaos: Chaos) -> None:
    worker = chaos.worker()
    chaos.say(f"all of {worker.name} is killed, and started again")
    for one in worker.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    await asyncio.sleep(chaos.span_s() / 2)
    worker.start()


async def drain_worker(chaos: Chaos) -> None:
    worker = chaos.worker()
    chaos.say(f"{worker.name} is stopped by SIGTERM, and started again")
    if worker.is_running:
        await asyncio.to_thread(worker.terminate)
    worker.start()


async def stop_child(chaos: Chaos) -> None:
    worker = chaos.worker()
    child = worker.child()
    if child is not None:
        await chaos.during(_stopped([child]), f"the child of {worker.name} is stopped")


async def freeze_host(chaos: Chaos) -> None:
    host = chaos.host()
    await chaos.during(host.frozen(), f"all of {host.name} is frozen", is_outage=True)


async def kill_front(chaos: Chaos) -> None:
    front = chaos.front()
    chaos.say(f"front end {front.name} is killed, and started again")
    await _end_front(chaos, front, front.kill)


async def drain_front(chaos: Chaos) -> None:
    front = chaos.front()
    chaos.say(f"front end {front.name} is stopped by SIGTERM, and started again")
    await _end_front(chaos, front, lambda: front.is_running and front.terminate())


async def _end_front(chaos: Chaos, front: FrontEnd, end: Callable[[], object]) -> None:
    # not over before it listens again
    fault = Fault(f"{front.name} ended", time.time(), breaks=front.name, is_outage=True)
    chaos.scene.record.faults.append(fault)
    await asyncio.to_thread(end)
    front.start()
    await asyncio.to_thread(chaos.scene.wait_for, front.listens)
    fault.until_s = time.time()


async def cut(chaos: Chaos) -> None:
    hosts = chaos.dice.sample(chaos.scene.hosts, chaos.dice.randint(1, 4))
    chaos.say(f"the connections of {' '.join(one.name for one in hosts)} are cut")
    for one in hosts:
        await asyncio.to_thread(one.network.cut)


async def black_hole(chaos: Chaos) -> None:
    host = chaos.host()
    await chaos.during(host.network.black_hole(), f"{host.name} is in the dark", is_outage=True)


async def slow(chaos: Chaos) -> None:
    with ExitStack() as stack:
        for host in chaos.scene.hosts:
            stack.enter_context(host.network.slow(chaos.dice.uniform(0.01, 0.2)))
        await chaos.during(stack.pop_all(), "the network is slow", is_outage=True)


async def deaf(chaos: Chaos) -> None:
    front = chaos.front()
    await chaos.during(front.network.deaf(), f"{front.name} hears no notification")


async def kill_redis(chaos: Chaos) -> None:
    chaos.say("Redis is killed, and started again with its append-only file")
    with chaos.scene.record.fault("Redis killed", loses_data=True, is_outage=True):
        chaos.scene.server.kill()
        await asyncio.sleep(chaos.span_s() / 2)
        await asyncio.to_thread(chaos.scene.server.start)


async def wipe_redis(chaos: Chaos) -> None:
    chaos.say("Redis is wiped")
    with chaos.scene.record.fault("Redis wiped", loses_data=True, is_outage=True):
        chaos.scene.store.flushall()


async def hang_redis(chaos: Chaos) -> None:
    process = psutil.Process(chaos.scene.server.pid)
    await chaos.during(_stopped([process]), "Redis hangs", is_outage=True)


async def pause_redis(chaos: Chaos) -> None:
    """Writes wait, reads do not: as while a failover is prepared."""
    span_s = chaos.span_s()
    chaos.say(f"Redis takes no writes, for {span_s:.2f} s")
    with chaos.scene.record.fault("Redis paused", is_outage=True):
        chaos.scene.store.execute_command("CLIENT", "PAUSE", round(span_s * 1000), "WRITE")
        await asyncio.sleep(span_s)


async def no_memory(chaos: Chaos) -> None:
    store = chaos.scene.store
    with ExitStack() as stack:
        store.config_set("maxmemory", 1)
        stack.callback(store.config_set, "maxmemory", 0)
        await chaos.during(stack.pop_all(), "Redis has no memory", is_outage=True)


async def no_disk(chaos: Chaos) -> None:
    if chaos.scene.disk.is_mounted:
        await chaos.during(chaos.scene.disk.full(), "the disk is full", is_outage=True)
        with contextlib.suppress(redis.ResponseError):
            chaos.scene.store.set("probe", "", px=1)


def _stopped(processes: list[psutil.Process]) -> AbstractContextManager[object]:
    stack = ExitStack()
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(one.pid, signal.SIGSTOP)
            stack.callback(_go_on, one)
    return stack


def _go_on(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


ENDS_OF_WORKERS = (kill_child, kill_supervisor, kill_worker_host, drain_worker)
DEEDS: list[tuple[Deed, int]] = [
    (kill_child, 2),
    (kill_supervisor, 1),
    (kill_worker_host, 1),
    (drain_worker, 1),
    (stop_child, 2),
    (freeze_host, 2),
    (kill_front, 2),
    (drain_front, 1),
    (cut, 3),
    (black_hole, 2),
    (slow, 1),
    (deaf, 1),
    (kill_redis, 2),
    (wipe_redis, 1),
    (hang_redis, 2),
    (pause_redis, 1),
    (no_memory, 1),
    (no_disk, 1),
]
"""What happens, and how often beside the others."""
