"""The one step that uses the device: jobs in, results out. Runs in the worker's compute thread."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from safetensors.torch import save

from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Diagnostic, Job, JobResult, MetricResult, ResultRow, map_name
from camserve.contracts.wire import METADATA_KEY
from camserve.engine import Attribution, Budget, Finer
from camserve.errors import OverBudget
from workers.costs import passes_of
from workers.evaluations import evaluate_row
from workers.failures import failure_of
from workers.models import ResidentModel
from workers.rows import ComputeJob, Row, batches, read_rows

__all__ = ["ComputeJob", "Limits", "Outcome", "explain_jobs"]


Outcome = bytes | FailureMessage


@dataclass(frozen=True)
class Limits:
    """What one batch and one job may take: inputs a forward pass, forward passes and seconds a
    job."""

    max_batch: int = 8
    forward_passes: float = math.inf
    seconds: float = math.inf


@dataclass(frozen=True)
class _Explained:
    """One input's maps, what was measured of each, and what it took."""

    attributions: list[Attribution]
    evaluations: list[tuple[MetricResult, ...]]
    batch_size: int
    forward_passes: int


def explain_jobs(
    model: ResidentModel, jobs: Sequence[ComputeJob], *, limits: Limits, worker: str, device: str
) -> list[Outcome]:
    """Explain jobs of one model together; inputs that fit share a forward pass.

    A job that cannot be explained fails alone: if a batch raises, its jobs run again one by one.
    """
    started_s = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    rows: list[Row] = []
    budgets = {job.job_id: Budget(limits.forward_passes, limits.seconds) for job in jobs}
    for job in jobs:
        with _failing(job, outcomes):
            budgets[job.job_id].reserve(passes_of(job.job, model.explainer))
            rows += read_rows(job, model.explainer, budgets[job.job_id])
    references = {job_id: budget.spent for job_id, budget in budgets.items()}
    max_batch = limits.max_batch if model.explainer.report.rows_are_independent else 1
    explained: dict[tuple[str, int], _Explained] = {}
    for batch in batches(rows, max_batch):
        for row, found in _attempt(model, batch, budgets, outcomes):
            explained[row.job.job_id, row.index] = found
    compute_ms = (time.perf_counter() - started_s) * 1000
    for job in jobs:
        if job.job_id in outcomes:
            continue
        with _failing(job, outcomes):
            of_job = [explained[job.job_id, index] for index in range(len(job.job.inputs))]
            outcomes[job.job_id] = _result(
                model,
                job.job,
                of_job,
                references=references[job.job_id],
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


def _attempt(
    model: ResidentModel,
    batch: list[Row],
    budgets: Mapping[str, Budget],
    outcomes: dict[str, Outcome],
) -> Iterator[tuple[Row, _Explained]]:
    """Explain a batch; if it fails, each job by itself, so that only the guilty one fails.

    A job of several inputs that fails is tried input by input: a model may take only one at once.
    What asks for more than its budget is not tried again.
    """
    batch = [row for row in batch if row.job.job_id not in outcomes]
    if not batch:
        return
    budget = budgets[batch[0].job.job_id]
    spent = budget.spent
    found: list[_Explained] = []
    try:
        found = _explain(model, batch, budget)
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if len(batch) == 1 or isinstance(error, OverBudget):
            for job_id in {row.job.job_id for row in batch}:
                outcomes[job_id] = failure_of(error, f"job {job_id}")
            return
    if found:
        yield from zip(batch, found, strict=True)
        return
    # out here the failed pass's tensors, which the error holds, are gone
    budget.spent = spent
    for part in _parts(batch):
        yield from _attempt(model, part, budgets, outcomes)


def _explain(model: ResidentModel, batch: Sequence[Row], budget: Budget) -> list[_Explained]:
    """All rows of a batch in one forward pass, and whatever their method needs besides.

    budget: of the one job, if the batch is of one job; a batch of several costs a pass a row.
    """
    explainer, job = model.explainer, batch[0].job.job
    alone = len({row.job.job_id for row in batch}) == 1
    inputs = torch.stack([row.tensor for row in batch], explainer.batch_dimension)
    options = job.method_options
    strength = options.comparison_strength
    finer = Finer(
        options.comparisons or Finer.comparisons, Finer.strength if strength is None else strength
    )
    before = budget.spent
    attributions = explainer.explain(
        inputs,
        [row.targets for row in batch],
        method=job.method,
        feature_layer=job.feature_layers or None,
        feature_format=job.feature_format,
        reduction_layer=job.reduction_layer,
        precision=job.precision,
        channels=options.channels,
        finer=finer,
        budget=budget if alone else None,
    )
    evaluations = [
        evaluate_row(model, row, found, budget)
        for row, found in zip(batch, attributions, strict=True)
    ]
    passes = (budget.spent - before) // len(batch) if alone else 1
    return [
        _Explained(found, measured, len(batch), passes)
        for found, measured in zip(attributions, evaluations, strict=True)
    ]


def _parts(batch: Sequence[Row]) -> list[list[Row]]:
    """A batch by jobs; a batch of one job by inputs."""
    by_job: dict[str, list[Row]] = {}
    for row in batch:
        by_job.setdefault(row.job.job_id, []).append(row)
    return list(by_job.values()) if len(by_job) > 1 else [[row] for row in batch]


def _result(
    model: ResidentModel,
    job: Job,
    explained: Sequence[_Explained],
    *,
    references: int,
    compute_ms: float,
    worker: str,
    device: str,
) -> bytes:
    rows: list[ResultRow] = []
    tensors: dict[str, torch.Tensor] = {}
    for index, of_input in enumerate(explained):
        for target, attribution, evaluation in zip(
            _target_numbers(job), of_input.attributions, of_input.evaluations, strict=True
        ):
            for layer, one in enumerate(attribution.maps):
                tensors[map_name(len(rows), layer)] = one.float().contiguous()
            rows.append(_row(index, target, attribution, evaluation))
    report = model.explainer.report
    result = JobResult(
        model_version=model.card.version,
        feature_layers=job.feature_layers or report.feature_layers,
        reduction_layer=job.reduction_layer or report.reduction_layer,
        rows=tuple(rows),
        compute_ms=round(compute_ms, 3),
        batch_size=max((one.batch_size for one in explained), default=0),
        forward_passes=references + sum(one.forward_passes for one in explained),
        precision=job.precision,
        worker=worker,
        device=device,
    )
    return save(tensors, metadata={METADATA_KEY: result.model_dump_json()})


def _target_numbers(job: Job) -> Iterator[int]:
    """Which of the job's targets each attribution of one input belongs to, in order."""
    for number, target in enumerate(job.targets):
        yield from (number for _ in range(target.count))


def _row(
    index: int, target: int, attribution: Attribution, evaluation: tuple[MetricResult, ...]
) -> ResultRow:
    return ResultRow(
        input=index,
        target=target,
        class_index=attribution.class_index,
        score=attribution.score if math.isfinite(attribution.score) else None,
        diagnostics=tuple(
            Diagnostic(code=diagnostic.value, advice=diagnostic.advice)
            for diagnostic in attribution.diagnostics
        ),
        evaluation=evaluation,
    )
