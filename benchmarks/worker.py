"""Whether a worker's device waits.

The device's busy share at saturation: of the time between the first and the last of many jobs that
waited in the queue, the part in which the worker's device thread computed. All is real: a Valkey
server, a worker process with its supervisor, jobs with 600 KB tensors in batches of 8. The networks
take some 20, 5 and 1 ms a batch: of the CPU, which they then share with the worker's own Python;
and asleep, which leaves the CPU free as a GPU does. What keeps a device waiting is the rest.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from redis.asyncio import Redis
from safetensors.torch import save

from benchmarks.figures import Figure, Row
from benchmarks.options import Options
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

__all__ = ["measure"]

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


@dataclass(frozen=True)
class Share:
    """Of the time that jobs took, that in which the device computed."""

    busy_s: float
    all_s: float


class Load:
    """Jobs for one model, of which the first holds the device until the others wait."""

    def __init__(self, redis: Redis, queue: JobQueue, model: str, folder: Path) -> None:
        self._redis = redis
        self._queue = queue
        self._model = model
        self._folder = folder

    async def share(self, jobs: int) -> Share:
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
        return Share(busy_s, wall_s)

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


def measure(options: Options) -> Iterator[Row]:
    """The busy share and the time between two batches, of each network."""
    jobs = 2 * BATCH if options.tiny else 160 if options.quick else 400
    paces = list(PACES)[-1:] if options.tiny else list(PACES)
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer(Path(name) / "redis") as server,
    ):
        for pace, found in asyncio.run(_shares(server.url, Path(name), jobs, paces, options)):
            yield Figure(f"{pace}: device busy at saturation", found.busy_s / found.all_s, "x")
            gap_ms = (found.all_s - found.busy_s) * 1000 * BATCH / jobs
            yield Figure(f"{pace}: device waits for the next batch", gap_ms, "ms")


async def _shares(
    url: str, folder: Path, jobs: int, paces: Sequence[str], options: Options
) -> list[tuple[str, Share]]:
    limits = QueueOptions(depth_cap=4096)
    names = {pace: pace.replace(" ", "-").lower() for pace in paces}
    models = make_repository(folder / "models", cards=dict.fromkeys(names.values(), ""))
    for pace, name in names.items():
        network, argument = PACES[pace]
        card = CARD.format(folder=folder, network=network, argument=argument)
        (models / name / "card.toml").write_text(card)
    factories = ",".join(f"benchmarks.paced_networks:{one}" for one in ("computing", "sleeping"))
    given = {
        "devices": options.device,
        "factories": factories,
        "max_batch": BATCH,
        "optimization": "none",  # it computes beside the jobs for a while
        "threads": 1,  # the other core is the server's and the worker's own
    }
    with Workers(url, models, folder, **given):
        async with connect(url) as redis, JobQueue(redis, limits) as queue:
            await _a_worker(Registry(redis, limits))
            return [
                (pace, await Load(redis, queue, names[pace], folder).share(jobs)) for pace in paces
            ]


async def _a_worker(registry: Registry) -> None:
    while True:
        statuses = (await registry.workers()).values()
        if any(WorkerStatus.model_validate_json(status).warm for status in statuses):
            return
        await asyncio.sleep(0.05)
