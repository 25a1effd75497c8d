"""An API, two workers and Redis on hosts of their own, whose cables are pulled and put back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.clients import Clients, clients
from tests.faults.hosts import FrontEnd, Worker
from tests.faults.namespaces import Switch, missing_rights
from tests.faults.network import Deed
from tests.faults.scene import Scene
from tests.faults.server import BINARIES, RedisServer
from tests.faults.test_worker_faults import begun, was_refused, works_again
from tests.service import free_port

pytestmark = pytest.mark.anyio


class SpreadScene(Scene):
    """Each process on a host of its own; the front end is on `a`."""

    def __init__(self, folder: Path, binary: str | Path, switch: Switch) -> None:
        self.switch = switch
        super().__init__(folder, binary)

    def make_server(self, binary: str | Path) -> RedisServer:
        return RedisServer(
            self.folder / "redis", binary, host="0.0.0.0", wrap=self.switch.wrap("redis")
        )

    def add_hosts(self) -> None:
        redis_url = f"redis://{self.switch.address('redis')}:{self.server.port}"
        port = free_port()
        environment = self.environment(redis_url, host="0.0.0.0", port=port, allow_anonymous="true")
        self.fronts["a"] = FrontEnd(
            *("a", self.folder, environment, f"http://{self.switch.outside}:{port}"),
            wrap=self.switch.wrap("a"),
        )
        for name in ("w1", "w2"):
            self.workers[name] = Worker(
                *(name, self.folder, self.environment(redis_url)), wrap=self.switch.wrap(name)
            )


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadScene]:
    if reason := missing_rights():
        pytest.skip(reason)
    binary = BINARIES["redis"] or BINARIES["valkey"]
    assert binary is not None
    folder = Path(tmp_path_factory.mktemp("spread"))
    with Switch(["a", "w1", "w2", "redis"]) as switch, SpreadScene(folder, binary, switch) as scene:
        yield scene


@pytest.fixture
async def far(spread: SpreadScene) -> AsyncIterator[Clients]:
    spread.heal(workers=2)
    async with clients(spread) as made:
        yield made
    spread.check()


async def test_a_worker_that_was_cut_off_past_its_lease_commits_nothing(
    spread: SpreadScene, far: Clients
) -> None:
    job, worker, gate = await begun(far)
    child = worker.child()
    assert child
    with (
        spread.record.fault(f"{worker.name} is cut off", is_outage=True),
        spread.switch.unplugged(worker.name),
    ):
        await far.wait_for(lambda: len(spread.journal.of(job.number)) == 2)
        spread.open_gate(gate)
        assert await far.finish(job, "a") == "succeeded"
        key = f"cam:{{net}}:job:{job.job_ids[0]}"
        before = spread.store.hgetall(key)
    await far.wait_for(lambda: was_refused(worker, job.job_ids[0]))
    assert spread.store.hgetall(key) == before
    await works_again(far, worker, child.pid)


async def test_an_api_that_is_cut_off_says_so_and_recovers_without_a_restart(
    spread: SpreadScene, far: Clients
) -> None:
    gate, pid = far.new_gate(), spread.fronts["a"].pid
    jobs = [far.submission(Deed.WAIT, key=True, is_sync=bool(i)) for i in range(2)]
    done = [asyncio.create_task(far.finish(job, "a", value=gate)) for job in jobs]
    await far.wait_for(lambda: all(spread.journal.of(job.number) for job in jobs))
    with (
        spread.record.fault("the API is cut off", is_outage=True),
        spread.switch.unplugged("a"),
    ):
        spread.open_gate(gate)  # what they have begun, workers finish
        refused = [far.submission(is_sync=is_sync) for is_sync in (True, False)]
        for call in await asyncio.gather(*(far.submit("a", job) for job in refused)):
            assert (call.status, call.code) == (503, "queue_unavailable")
        async with httpx.AsyncClient(base_url=spread.fronts["a"].url) as http:
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/readyz")).status_code == 503
        await far.wait_for(spread.is_at_rest)
    assert set(await asyncio.gather(*done)) == {"succeeded"}
    assert await far.finish(far.submission(key=True), "a") == "succeeded"
    # it hears of jobs again, and does not only look
    await far.wait_for(lambda: spread.store.pubsub_numsub("cam:done")[0][1] >= 1)
    assert spread.fronts["a"].pid == pid


async def test_a_redis_that_vanishes_and_comes_back_elsewhere_in_time_is_found(
    spread: SpreadScene, far: Clients
) -> None:
    """Its host dies without a word: nobody is told that connections have ended."""
    with (
        spread.record.fault("Redis's host dies", is_outage=True, loses_data=True),
        spread.switch.unplugged("redis"),
    ):
        spread.server.kill()
        call = await far.submit("a", far.submission())
        assert (call.status, call.code) == (503, "queue_unavailable")
    with spread.record.fault("Redis starts", is_outage=True, loses_data=True):
        spread.server.start()
    jobs = [far.submission(key=True, is_sync=bool(i % 2)) for i in range(8)]
    states = await asyncio.gather(*(far.finish(job, "a") for job in jobs))
    assert set(states) == {"succeeded"}
    await far.wait_for(lambda: spread.store.pubsub_numsub("cam:done")[0][1] >= 1)
