"""Jobs for tests, on their way to a worker and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from camserve.broker import JobQueue, JobRecord, Priority, new_job_id
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, JobInput, JobResult, JobTarget, input_name, map_name
from camserve.contracts.targets import ClassIndexTarget
from camserve.contracts.wire import METADATA_KEY, metadata_of
from tests.workers.factories import SHAPE
from workers.attempts import Outcome
from workers.compute import Limits, explain_jobs
from workers.models import ResidentModel
from workers.rows import ComputeJob

__all__ = [
    "compute_job",
    "document",
    "enqueue",
    "failed",
    "failure",
    "load_job",
    "noise",
    "payload",
    "read",
    "run",
]

FIRST_CLASS = ClassIndexTarget(class_index=0)


def noise(seed: int, mark: float | None = None) -> torch.Tensor:
    """An input of SHAPE; `mark` is the value of its first pixel."""
    tensor = torch.from_numpy(np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32))
    if mark is not None:
        tensor[0, 0, 0] = mark
    return tensor


def document(
    *inputs: torch.Tensor, model: str = "tiny", targets: Sequence[JobTarget] = (FIRST_CLASS,),
    **fields: Any,
) -> Job:  # fmt: skip
    shapes = tuple(JobInput(shape=tuple(tensor.shape), geometry={}) for tensor in inputs)
    fields = {"model_version": ""} | fields
    return Job(model=model, inputs=shapes, targets=tuple(targets), **fields)


def payload(*inputs: torch.Tensor) -> bytes:
    return save({input_name(index): tensor for index, tensor in enumerate(inputs)})


def compute_job(job_id: str, *inputs: torch.Tensor, **fields: Any) -> ComputeJob:
    return ComputeJob(job_id, document(*inputs, **fields), payload(*inputs))


def run(
    model: ResidentModel, *jobs: ComputeJob, passes: float = float("inf"), max_batch: int = 8
) -> list[Outcome]:
    limits = Limits(max_batch=max_batch, forward_passes=passes)
    return explain_jobs(model, jobs, limits=limits, worker="w", device="cpu")


def failed(outcome: Outcome) -> FailureMessage:
    assert isinstance(outcome, FailureMessage)
    return outcome


def read(result: object) -> tuple[JobResult, list[torch.Tensor]]:
    """Metadata and maps of a result, for each row one map a feature layer."""
    assert isinstance(result, bytes), result
    about = JobResult.model_validate_json(metadata_of(result))
    maps = load(result)
    layers = range(len(about.feature_layers))
    names = [map_name(row, layer) for row in range(len(about.rows)) for layer in layers]
    assert set(maps) == set(names)
    assert METADATA_KEY == "camserve"
    return about, [maps[name] for name in names]


async def enqueue(
    queue: JobQueue, *inputs: torch.Tensor, model: str = "tiny", deadline_s: float = 60,
    priority: Priority = Priority.INTERACTIVE, **fields: Any,
) -> str:  # fmt: skip
    """Enqueue as the front end does; returns the job id."""
    accepted = await queue.enqueue(
        job_id=new_job_id(model),
        priority=priority,
        time_to_deadline_ms=round(deadline_s * 1000),
        payload=payload(*inputs),
        document=document(*inputs, model=model, **fields).model_dump_json().encode(),
    )
    return accepted.job_id


async def load_job(queue: JobQueue, model: str) -> str:
    """Ask for a model to be loaded, as the front end does."""
    job = Job(kind="load", model=model, model_version="")
    accepted = await queue.enqueue(
        job_id=new_job_id(model),
        priority=Priority.INTERACTIVE,
        time_to_deadline_ms=60_000,
        payload=b"",
        document=job.model_dump_json().encode(),
    )
    return accepted.job_id


def failure(record: JobRecord | None) -> dict[str, Any]:
    """The failure of a job that must have one."""
    assert record is not None
    assert record.failure is not None, record.state
    return dict(json.loads(record.failure))
