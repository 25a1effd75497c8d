"""A front end in this process, on a real server; the test plays the worker."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image
from redis.asyncio import Redis
from safetensors.numpy import load, save
from starlette.types import Receive, Scope, Send

from app.main import create_app
from camserve.broker import (
    LONGEST_BLOCK_S,
    Begun,
    Claim,
    CommandReader,
    ModelCommand,
    QueueOptions,
    Registry,
    WorkerQueue,
    connect,
)
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.jobs import (
    Job,
    JobResult,
    PredictionResult,
    PredictionRow,
    ResultRow,
    map_name,
    output_name,
)
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.contracts.wire import METADATA_KEY
from camserve.queueing import queue_options
from camserve.settings import Settings
from workers.computed import computed_digest

__all__ = [
    "CARD",
    "Front",
    "commands",
    "png",
    "prediction_of",
    "problem",
    "result_of",
    "running_front",
]

CARD = ResolvedCard(
    name="toy",
    version="v1",
    state="ready",
    source="export:model.pt2",
    title="Toy",
    input=PictureSpec(height=32, width=32),
    labels=("arrow", "heart, love", "Crane", "crane bird", "crane bird"),
    classes=5,
    feature_layer="features",
    reduction_layer="output",
    candidates=("features",),
    modules=("features", "head"),
)

Maps = Callable[[int], np.ndarray | tuple[np.ndarray, ...]]
"""The map of a result by its number; or one for each feature layer."""


def png(width: int = 48, height: int = 40, color: Any = (200, 60, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


def ramp(number: int) -> np.ndarray:
    """A signed map, another one for each number."""
    return np.arange(-4, 12, dtype=np.float32).reshape(4, 4) * (number + 1)


def result_of(job: Job, maps: Maps = ramp) -> bytes:
    """What a worker would commit: one row per input and target."""
    rows = []
    for index in range(len(job.inputs)):
        for number, target in enumerate(job.targets):
            classes: Sequence[int | None] = (None,)
            if isinstance(target, ClassIndexTarget):
                classes = target.indices
            elif isinstance(target, TopTarget):
                classes = range(target.top)
            rows += [
                ResultRow(
                    input=index, target=number, class_index=c, class_label=CARD.label(c), score=1
                )
                for c in classes
            ]
    result = JobResult(
        model_version=job.model_version,
        feature_layers=job.feature_layers or ("features",),
        reduction_layer="output",
        rows=tuple(rows),
        compute_ms=1.5,
        batch_size=1,
        forward_passes=len(job.inputs),
        precision=job.precision,
        worker="w1",
        device="cpu",
    )
    tensors = {}
    for number in range(len(rows)):
        made = maps(number)
        for layer in range(len(result.feature_layers)):
            one = made[layer] if isinstance(made, tuple) else made
            tensors[map_name(number, layer)] = np.ascontiguousarray(one)
    return save(tensors, metadata={METADATA_KEY: result.model_dump_json()})


def prediction_of(job: Job, outputs: Sequence[np.ndarray], labels: str = "C") -> bytes:
    """What a worker would commit for a prediction with these outputs."""
    assert job.kind == "predict"
    about = PredictionResult(
        model_version=job.model_version,
        output_format=labels,
        rows=tuple(PredictionRow() for _ in outputs),
        compute_ms=1.5,
        batch_size=len(outputs),
        precision=job.precision,
        worker="w1",
        device="cpu",
    )
    tensors = {output_name(i): np.asarray(one, np.float32) for i, one in enumerate(outputs)}
    return save(tensors, metadata={METADATA_KEY: about.model_dump_json()})


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document of a problem of that status and code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"/problems/{code}"
    return dict(document)


async def commands(reader: CommandReader) -> list[ModelCommand]:
    """The next ones that a worker reads, whenever they come."""
    while not (found := await reader.next(LONGEST_BLOCK_S)):
        pass
    return found


@dataclass(frozen=True)
class Front:
    """The parts that a test needs."""

    client: httpx.AsyncClient
    redis: Redis
    options: QueueOptions
    registry: Registry
    worker: WorkerQueue

    async def publish(self, card: ResolvedCard = CARD, *, served: bool = True) -> None:
        """A model's card, and a worker that says it serves it."""
        await self.registry.publish_card(card.name, card.model_dump_json().encode())
        if served:
            await self.heartbeat(card.name)

    async def heartbeat(
        self,
        *models: str,
        warm: bool = True,
        worker: str = "w1",
        resident: Sequence[str] | None = None,
        **fields: Any,
    ) -> None:
        """A worker that serves these models, and holds all of them unless told otherwise."""
        status = WorkerStatus(
            worker=worker,
            host="here",
            pid=1,
            device=fields.pop("device", "cpu"),
            models=models,
            resident=models if resident is None else tuple(resident),
            warm=warm,
            proof_age_s=fields.pop("proof_age_s", 0.0 if warm else None),
            **fields,
        )
        await self.registry.heartbeat(worker, status.model_dump_json().encode())

    async def commanded(self, worker: str = "w1") -> CommandReader:
        """A worker's ear for commands, from now on."""
        reader = CommandReader(self.redis, self.options, worker)
        await reader.start()
        return reader

    async def post(self, content: bytes | None = None, **options: Any) -> httpx.Response:
        """A raw picture with options in the query, unless told otherwise."""
        query = {"model": "toy"} | options.pop("params", {})
        headers = {"Content-Type": "image/png"} | options.pop("headers", {})
        body = png() if content is None else content
        return await self.client.post(
            "/v1/explanations", content=body, params=query, headers=headers, **options
        )

    async def claim(self, model: str = "toy") -> Claim:
        """The next job, whenever it comes."""
        while not (claims := await self.worker.claim([model], 1, LONGEST_BLOCK_S)):
            pass
        return claims[0]

    async def begin(self, model: str = "toy") -> Begun:
        """The next job, as a worker gets it."""
        begun = await self.worker.begin(await self.claim(model))
        assert begun is not None
        return begun

    async def work(
        self, maps: Maps = ramp, model: str = "toy"
    ) -> tuple[Job, dict[str, np.ndarray]]:
        """Do one job; returns its document and its tensors."""
        begun = await self.begin(model)
        job = Job.model_validate_json(begun.document)
        result = result_of(job, maps)
        assert await self.worker.finish(begun, result, computed_digest(job, result))
        return job, load(begun.payload)

    async def done(
        self, asked: Any, maps: Maps = ramp
    ) -> tuple[httpx.Response, Job, dict[str, np.ndarray]]:
        """Await `asked`, a request, while doing its job."""
        response, (job, tensors) = await asyncio.gather(asked, self.work(maps))
        return response, job, tensors


@asynccontextmanager
async def running_front(redis_url: str, **settings: Any) -> AsyncIterator[Front]:
    """An application with its lifespan, asked through ASGI; leases are short."""
    chosen = Settings(redis_url=redis_url, **{"sync_wait_s": 60.0, "lease_s": 1.0, **settings})
    app = create_app(chosen)
    options = queue_options(chosen)
    async with app.router.lifespan_context(app) as state, connect(redis_url) as redis:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state or {})
            await app(scope, receive, send)

        transport = httpx.ASGITransport(app=with_state, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            registry = Registry(redis, options)
            yield Front(client, redis, options, registry, WorkerQueue(redis, options, "w1"))
