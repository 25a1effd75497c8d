"""The one step that uses the device: jobs in, results out. Runs in the worker's compute thread."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import (
    Diagnostic,
    Job,
    JobResult,
    JobTarget,
    ResultRow,
    input_name,
    map_name,
)
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.contracts.wire import METADATA_KEY
from camserve.engine import Attribution, ClassIndex, Reduction, Target, Top
from camserve.errors import InvalidInput
from workers.failures import failure_of
from workers.models import ResidentModel

__all__ = ["ComputeJob", "Outcome", "explain_jobs"]


@dataclass(frozen=True)
class ComputeJob:
    """A job and its payload, as claimed."""

    job_id: str
    job: Job
    payload: bytes


Outcome = bytes | FailureMessage


@dataclass(frozen=True)
class _Row:
    """One input of one job."""

    job: ComputeJob
    index: int
    tensor: torch.Tensor
    targets: tuple[Target, ...]


def explain_jobs(
    model: ResidentModel, jobs: Sequence[ComputeJob], *, max_batch: int, worker: str, device: str
) -> list[Outcome]:
    """Explain jobs of one model together; inputs that fit share a forward pass.

    A job that cannot be explained fails alone: if a batch raises, its jobs run again one by one.
    """
    started_s = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    rows: list[_Row] = []
    for job in jobs:
        with _failing(job, outcomes):
            rows += _rows(job)
    maps: dict[tuple[str, int], list[Attribution]] = {}
    batch_size = dict.fromkeys((job.job_id for job in jobs), 0)
    for batch in _batches(rows, max_batch):
        for group in _attempt(model, batch, outcomes):
            for row, attributions in group:
                maps[row.job.job_id, row.index] = attributions
                batch_size[row.job.job_id] = max(batch_size[row.job.job_id], len(group))
    compute_ms = (time.perf_counter() - started_s) * 1000
    for job in jobs:
        if job.job_id in outcomes:
            continue
        with _failing(job, outcomes):
            outcomes[job.job_id] = _result(
                model,
                job.job,
                [maps[job.job_id, index] for index in range(len(job.job.inputs))],
                batch_size=batch_size[job.job_id],
                compute_ms=compute_ms,
                worker=worker,
                device=device,
            )
    return [outcomes[job.job_id] for job in jobs]


@contextmanager
def _failing(job: ComputeJob, outcomes: dict[str, Outcome]) -> Iterator[None]:
    """Whatever is raised inside is the failure of this job, and of no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - one job must not take the others down
        outcomes[job.job_id] = failure_of(error, f"job {job.job_id}")


def _rows(job: ComputeJob) -> Iterator[_Row]:
    targets = tuple(target for asked in job.job.targets for target in _engine_targets(asked))
    try:
        tensors = load(job.payload)
        inputs = [tensors[input_name(index)] for index in range(len(job.job.inputs))]
    except (SafetensorError, KeyError) as error:
        raise InvalidInput(f"the payload of job {job.job_id} is damaged") from error
    for index, tensor in enumerate(inputs):
        yield _Row(job, index, tensor, targets)


def _engine_targets(target: JobTarget) -> Iterator[Target]:
    match target:
        case ClassIndexTarget():
            yield from (ClassIndex(index) for index in target.indices)
        case TopTarget():
            yield Top(target.top)
        case _:
            yield Reduction(target.reduction, **target.params.model_dump())


def _batches(rows: Sequence[_Row], max_batch: int) -> Iterator[list[_Row]]:
    """Rows that may share a forward: the same layers and shape; targets may differ."""
    groups: dict[object, list[_Row]] = {}
    for row in rows:
        job = row.job.job
        key = (job.feature_layer, job.reduction_layer, row.tensor.shape, row.tensor.dtype)
        groups.setdefault(key, []).append(row)
    for group in groups.values():
        yield from (group[i : i + max_batch] for i in range(0, len(group), max_batch))


def _attempt(
    model: ResidentModel, batch: list[_Row], outcomes: dict[str, Outcome]
) -> Iterator[list[tuple[_Row, list[Attribution]]]]:
    """Explain a batch; if it fails, each job by itself, so that only the guilty one fails.

    A job of several inputs that fails is tried input by input: a model may take only one at once.
    """
    batch = [row for row in batch if row.job.job_id not in outcomes]
    if not batch:
        return
    job = batch[0].job.job
    try:
        attributions = model.explainer.explain(
            torch.stack([row.tensor for row in batch]),
            [row.targets for row in batch],
            feature_layer=job.feature_layer,
            reduction_layer=job.reduction_layer,
        )
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if len(batch) == 1:
            job_id = batch[0].job.job_id
            outcomes[job_id] = failure_of(error, f"job {job_id}")
            return
        for part in _parts(batch):
            yield from _attempt(model, part, outcomes)
    else:
        yield list(zip(batch, attributions, strict=True))


def _parts(batch: Sequence[_Row]) -> list[list[_Row]]:
    """A batch by jobs; a batch of one job by inputs."""
    by_job: dict[str, list[_Row]] = {}
    for row in batch:
        by_job.setdefault(row.job.job_id, []).append(row)
    return list(by_job.values()) if len(by_job) > 1 else [[row] for row in batch]


def _result(
    model: ResidentModel,
    job: Job,
    attributions: Sequence[Sequence[Attribution]],
    *,
    batch_size: int,
    compute_ms: float,
    worker: str,
    device: str,
) -> bytes:
    rows: list[ResultRow] = []
    tensors: dict[str, torch.Tensor] = {}
    for index, of_input in enumerate(attributions):
        for target, attribution in zip(_target_numbers(job), of_input, strict=True):
            tensors[map_name(len(rows))] = attribution.map.float().contiguous()
            rows.append(_row(index, target, attribution))
    result = JobResult(
        model_version=model.card.version,
        feature_layer=job.feature_layer or model.explainer.report.feature_layer,
        reduction_layer=job.reduction_layer or model.explainer.report.reduction_layer,
        rows=tuple(rows),
        compute_ms=round(compute_ms, 3),
        batch_size=batch_size,
        worker=worker,
        device=device,
    )
    return save(tensors, metadata={METADATA_KEY: result.model_dump_json()})


def _target_numbers(job: Job) -> Iterator[int]:
    """Which of the job's targets each attribution of one input belongs to, in order."""
    for number, target in enumerate(job.targets):
        yield from (number for _ in range(target.count))


def _row(index: int, target: int, attribution: Attribution) -> ResultRow:
    return ResultRow(
        input=index,
        target=target,
        class_index=attribution.class_index,
        score=attribution.score if math.isfinite(attribution.score) else None,
        diagnostics=tuple(
            Diagnostic(code=diagnostic.value, advice=diagnostic.advice)
            for diagnostic in attribution.diagnostics
        ),
    )
