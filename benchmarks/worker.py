"""Whether a worker's device waits: `python -m benchmarks.worker [--jobs N] [--json]`.

The device's busy share at saturation: of the time between the first and the last of many jobs that
waited in the queue, the part in which the worker's device thread computed. All is real: a Valkey
server, a worker process with its supervisor, jobs with 600 KB tensors in batches of 8. The networks
take some 20, 5 and 1 ms a batch: of the CPU, which they then share with the worker's own Python;
and asleep, which leaves the CPU free as a GPU does. What keeps a device waiting is the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from redis.asyncio import Redis
from safetensors.torch import save

from benchmarks.paced_networks import GATE
from camserve import measures
from camserve.broker import JobQueue, Priority, QueueOptions, Registry, Totals, connect, new_job_id
from camserve.broker.embedded import EmbeddedServer
from camserve.contracts.cards import WorkerStatus
from camserve.contracts.jobs import Job, JobInput, JobResult, input_name
from camserve.contracts.targets import ClassIndexTarget
from camserve.contracts.wire import metadata_of
from camserve.measures import counts_of
from tests.service import make_repository
from tests.workers.processes import Workers

BATCH = 8
SHAPE = (3, 224, 224)
PACES = {
    "20 ms of the CPU": ("computing", "rounds = 90"),
    "5 ms of the CPU": ("computing", "rounds = 16"),
    "1 ms of the CPU": ("computing", "rounds = 0"),
    "20 ms asleep": ("sleeping", "seconds = 0.0185"),
    "5 ms asleep": ("sleeping", "seconds = 0.0035"),
}
CARD = """source = "factory:benchmarks.paced_networks:{network}"
[input]
height = 224
width = 224
[arguments]
folder = "{folder}"
{argument}
"""


class Load:
    """Jobs for one model, of which the first holds the device until the others wait."""

    def __init__(self, redis: Redis, queue: JobQueue, model: str, folder: Path) -> None:
        self._redis = redis
        self._queue = queue
        self._model = model
        self._folder = folder

    async def share(self, jobs: int) -> dict[str, float]:
        """The busy share, and what a batch took, in ms."""
        dice = np.random.default_rng(0)
        tensors = [torch.from_numpy(dice.random(SHAPE, dtype=np.float32)) for _ in range(BATCH)]
        payloads = [save({input_name(0): tensor}) for tensor in tensors]
        for _ in range(2):  # warm up: loaded, and allocators, connections, scripts
            await self._done([await self._enqueue(payloads[n % BATCH]) for n in range(4 * BATCH)])
        await asyncio.sleep(1.2)  # what it measured is told by now
        before_s = await self._busy_s()
        (self._folder / "go").unlink(missing_ok=True)
        tensors[0][0, 0, 0] = GATE
        gate = await self._enqueue(save({input_name(0): tensors[0]}))
        while not (self._folder / "entered").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        ids = [await self._enqueue(payloads[n % BATCH]) for n in range(jobs)]
        (self._folder / "go").touch()
        await self._done([gate, *ids])
        await asyncio.sleep(1.2)
        busy_s = await self._busy_s() - before_s - await self._compute_s(gate)
        (self._folder / "entered").unlink()
        records = [await self._queue.get(job_id) for job_id in (gate, *ids)]
        ends_ms = [record.completed_ms for record in records if record and record.completed_ms]
        wall_s = (max(ends_ms) - ends_ms[0]) / 1000
        return {
            "busy share": busy_s / wall_s,
            "busy ms/batch": busy_s * 1000 * BATCH / jobs,
            "all ms/batch": wall_s * 1000 * BATCH / jobs,
            "jobs/s": jobs / wall_s,
        }

    async def _enqueue(self, payload: bytes) -> str:
        job_id = new_job_id(self._model)
        job = Job(
            model=self._model,
            model_version="",
            inputs=(JobInput(shape=SHAPE, geometry={}),),
            targets=(ClassIndexTarget(class_index=0),),
        )
        await self._queue.enqueue(
            job_id=job_id,
            priority=Priority.INTERACTIVE,
            time_to_deadline_ms=600_000,
            payload=payload,
            document=job.model_dump_json().encode(),
        )
        return job_id

    async def _done(self, ids: Sequence[str]) -> None:
        # not by waiting for each, which would take the CPU that is measured
        while await self._queue.depth(self._model):  # noqa: ASYNC110 - another process does them
            await asyncio.sleep(0.05)
        for job_id in ids:
            record = await self._queue.get(job_id)
            assert record is not None
            assert record.state == "succeeded", record

    async def _busy_s(self) -> float:
        totals = (await Totals(self._redis).census()).totals
        return sum(counts_of(measures.DEVICE_BUSY_SECONDS, totals).values())

    async def _compute_s(self, job_id: str) -> float:
        result = await self._queue.result(job_id)
        assert result is not None
        return JobResult.model_validate_json(metadata_of(result)).compute_ms / 1000


async def measure(url: str, folder: Path, jobs: int, paces: Sequence[str]) -> dict[str, float]:
    options = QueueOptions(depth_cap=4096)
    names = {pace: pace.replace(" ", "-").lower() for pace in paces}
    cards = {
        names[pace]: CARD.format(folder=folder, network=PACES[pace][0], argument=PACES[pace][1])
        for pace in paces
    }
    models = make_repository(folder / "models", cards=cards)
    for name, card in cards.items():
        (models / name / "card.toml").write_text(card)
    factories = ",".join(f"benchmarks.paced_networks:{one}" for one in ("computing", "sleeping"))
    given = {"factories": factories, "max_batch": BATCH, "log_level": "info", "threads": 1}
    report: dict[str, float] = {}
    with Workers(url, models, folder, **given):
        async with connect(url) as redis, JobQueue(redis, options) as queue:
            await a_worker(Registry(redis, options))
            for pace in paces:
                load = Load(redis, queue, names[pace], folder)
                found = await load.share(jobs)
                report |= {f"{pace}: {what}": value for what, value in found.items()}
    return report


async def a_worker(registry: Registry) -> None:
    while True:
        statuses = (await registry.workers()).values()
        if any(WorkerStatus.model_validate_json(status).warm for status in statuses):
            return
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=400, help="of each network, 600 KB each")
    parser.add_argument("--pace", action="append", choices=PACES, help="by default all")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer(Path(name) / "redis") as server,
    ):
        paces = asked.pace or list(PACES)
        report = asyncio.run(measure(server.url, Path(name), asked.jobs, paces))
    if asked.json:
        print(json.dumps(report))
        return
    for what, value in report.items():
        print(f"{what:40} {value:10.3f}")


if __name__ == "__main__":
    main()
