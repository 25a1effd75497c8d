"""Redis dies, forgets, hangs, has no memory or no disk: callers are told, and all recovers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import redis

from tests.faults.clients import Clients
from tests.faults.network import Deed
from tests.faults.record import Submission
from tests.faults.scene import Scene

pytestmark = pytest.mark.anyio


@contextmanager
def dead(scene: Scene) -> Iterator[None]:
    """Killed; then started again from its append-only file."""
    scene.server.kill()
    yield
    scene.server.start()


@contextmanager
def lost(scene: Scene) -> Iterator[None]:
    """Killed; then started again with an empty folder."""
    scene.server.kill()
    yield
    scene.server.forget()
    scene.server.start()


@contextmanager
def hung(scene: Scene) -> Iterator[None]:
    """The kernel takes what is sent, and nothing comes back."""
    os.kill(scene.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(scene.server.pid, signal.SIGCONT)


@contextmanager
def black_holed(scene: Scene) -> Iterator[None]:
    """No packet comes through, from any host."""
    with ExitStack() as stack:
        for host in scene.hosts:
            stack.enter_context(host.network.black_hole())
        yield


@contextmanager
def without_memory(scene: Scene) -> Iterator[None]:
    scene.store.config_set("maxmemory", 1)
    try:
        yield
    finally:
        scene.store.config_set("maxmemory", 0)


@contextmanager
def without_disk(scene: Scene) -> Iterator[None]:
    if not scene.disk.is_mounted:
        pytest.skip("a small disk of its own takes the right to mount one")
    with scene.disk.full():
        scene.wait_for(lambda: refuses_writes(scene.store))
        yield


def refuses_writes(store: redis.Redis) -> bool:
    """Once it has noticed, by a write that it could not append."""
    try:
        store.set("probe", bytes(1 << 16), px=1)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    return False


OUTAGES: dict[str, tuple[Callable[[Scene], contextmanager[None]], bool]] = {  # type: ignore[valid-type]
    "dead": (dead, True),
    "lost": (lost, True),
    "hung": (hung, False),
    "black-holed": (black_holed, False),
    "without memory": (without_memory, False),
    "without disk": (without_disk, False),
}


async def callers(asking: Clients) -> tuple[int, list[Submission], list[asyncio.Task[str]]]:
    """Some that wait for jobs which run or are queued, and others that ask now and then."""
    gate = asking.new_gate()
    jobs = [asking.submission(Deed.WAIT, key=True, is_sync=bool(i % 2)) for i in range(6)]
    tasks = [
        asyncio.create_task(asking.finish(job, *("ab" if i % 3 else "ba"), value=gate))
        for i, job in enumerate(jobs)
    ]
    await asking.wait_for(lambda: any(asking.scene.journal.of(job.number) for job in jobs))
    await asking.wait_for(lambda: all(job.job_ids for job in jobs if not job.is_sync))
    return gate, jobs, tasks


@pytest.mark.parametrize("name", OUTAGES)
async def test_callers_are_told_and_nothing_is_lost(
    name: str, scene: Scene, asking: Clients
) -> None:
    outage, loses_data = OUTAGES[name]
    gate, jobs, tasks = await callers(asking)
    known = next(job for job in jobs if job.job_ids)
    with scene.record.fault(name, loses_data=loses_data, is_outage=True), outage(scene):
        scene.open_gate(gate)
        new = [asking.submission(is_sync=is_sync) for is_sync in (True, False)]
        answers = await asyncio.gather(
            *(asking.submit(front, job) for front, job in zip("ab", new, strict=True)),
            asking.look("b", known.job_ids[0]),
        )
        for answer in answers[: 2 if "without" in name else 3]:
            assert answer.status == 503, answer
            assert answer.code == "queue_unavailable"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{scene.fronts['a'].url}/livez")).status_code == 200
        await scene_settles(scene)
    assert set(await asyncio.gather(*tasks)) == {"succeeded"}


async def scene_settles(scene: Scene) -> None:
    """Callers that wait have looked at least once in vain."""
    await asyncio.sleep(scene.limits.fallback_look_s)
