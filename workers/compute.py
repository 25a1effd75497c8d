"""Explanations on the device: jobs in, results out. Runs in the worker's compute thread."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save

from camserve.contracts import jobs as messages
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import Job, JobResult, MetricResult, ResultRow, map_name
from camserve.contracts.wire import METADATA_KEY
from camserve.engine import Attribution, Budget, Diagnostic, Finer, is_out_of_memory
from camserve.engine.execution import ActivationCache
from workers.attempts import Outcome, attempt, failing
from workers.batch_sizes import BatchSizes, LearntSizes
from workers.costs import passes_of
from workers.evaluations import evaluate_row
from workers.models import ResidentModel
from workers.progress import Progress
from workers.rows import ComputeJob, Row, batches, read_rows, recall_of, stacked

__all__ = ["Limits", "as_messages", "explain_jobs"]


@dataclass(frozen=True)
class Limits:
    """What one batch and one job may take: inputs a forward pass, forward passes and seconds a
    job, numbers in the outputs of a prediction."""

    max_batch: int = 8
    forward_passes: float = math.inf
    seconds: float = math.inf
    output_numbers: float = math.inf


@dataclass(frozen=True)
class _Explained:
    """One input's maps, what was measured of each, and what it took."""

    attributions: list[Attribution]
    evaluations: list[tuple[MetricResult, ...]]
    batch_size: int
    forward_passes: int
    recalled: bool


def explain_jobs(
    model: ResidentModel,
    jobs: Sequence[ComputeJob],
    *,
    limits: Limits,
    worker: str,
    device: str,
    sizes: BatchSizes | None = None,
    progress: Progress | None = None,
    activations: ActivationCache | None = None,
) -> list[Outcome]:
    """Explain jobs of one model together; inputs that fit share a forward pass.

    A job that cannot be explained fails alone: if a batch raises, it is tried again in parts.
    sizes: what is known of the model's batches on this device. progress: is told what each job
    takes, and reads what it has made. activations: of inputs that were computed before.
    """
    started_s = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    rows: list[Row] = []
    budgets = {
        job.job_id: Budget(limits.forward_passes, limits.seconds, job.withdrawn) for job in jobs
    }
    for job in jobs:
        with failing(job, outcomes):
            passes = passes_of(job.job, model.explainer)
            budgets[job.job_id].reserve(passes)
            if progress is not None:
                progress.begin(job.job_id, budgets[job.job_id], passes)
            rows += read_rows(job, model, budgets[job.job_id])
    references = {job_id: budget.spent for job_id, budget in budgets.items()}
    sizes = sizes or LearntSizes(limits.max_batch).of(model)
    explained: dict[tuple[str, int], _Explained] = {}

    def explain(batch: Sequence[Row], at_once: int) -> list[_Explained]:
        budget = budgets[batch[0].job.job_id]
        spent = budget.spent
        try:
            return _explain(model, batch, budget, at_once, activations)
        except BaseException as error:
            budget.spent = spent  # what failed is tried again in parts
            if activations is not None and is_out_of_memory(error):
                activations.clear()
            raise

    for batch in batches(rows, sizes.most):
        for row, found in attempt(batch, explain, outcomes, sizes=sizes, device=device):
            explained[row.job.job_id, row.index] = found
    compute_ms = (time.perf_counter() - started_s) * 1000
    for job in jobs:
        if job.job_id in outcomes:
            continue
        with failing(job, outcomes):
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


def _explain(
    model: ResidentModel,
    batch: Sequence[Row],
    budget: Budget,
    at_once: int,
    activations: ActivationCache | None,
) -> list[_Explained]:
    """All rows of a batch in one forward pass, and whatever their method needs besides.

    budget: of the one job, if the batch is of one job; a batch of several costs a pass a row.
    at_once: variants of an input that share a forward pass.
    """
    explainer, job = model.explainer, batch[0].job.job
    alone = len({row.job.job_id for row in batch}) == 1
    inputs = stacked([row.tensor for row in batch], model)
    options = job.method_options
    strength = options.comparison_strength
    finer = Finer(
        options.comparisons or Finer.comparisons, Finer.strength if strength is None else strength
    )
    before = budget.spent
    model.asked.add(job.precision)
    recall = recall_of(model, batch, activations)
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
        chunk=at_once,
        recall=recall,
    )
    recalled = recall.hits if recall else set()
    evaluations = [
        evaluate_row(model, row, found, budget, at_once)
        for row, found in zip(batch, attributions, strict=True)
    ]
    passes = (budget.spent - before + len(recalled)) // len(batch) if alone else 1
    return [
        _Explained(found, measured, len(batch), passes - (row in recalled), row in recalled)
        for row, (found, measured) in enumerate(zip(attributions, evaluations, strict=True))
    ]


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
            rows.append(_row(model.card, index, target, attribution, evaluation))
    report = model.explainer.report
    result = JobResult(
        model_version=model.card.version,
        feature_layers=job.feature_layers or report.feature_layers,
        reduction_layer=job.reduction_layer or report.reduction_layer,
        rows=tuple(rows),
        compute_ms=round(compute_ms, 3),
        batch_size=max((one.batch_size for one in explained), default=0),
        forward_passes=references + sum(one.forward_passes for one in explained),
        recalled=sum(one.recalled for one in explained),
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
    card: ResolvedCard,
    index: int,
    target: int,
    attribution: Attribution,
    evaluation: tuple[MetricResult, ...],
) -> ResultRow:
    return ResultRow(
        input=index,
        target=target,
        class_index=attribution.class_index,
        class_label=card.label(attribution.class_index),
        score=attribution.score if math.isfinite(attribution.score) else None,
        diagnostics=as_messages(attribution.diagnostics),
        evaluation=evaluation,
    )


def as_messages(diagnostics: Sequence[Diagnostic]) -> tuple[messages.Diagnostic, ...]:
    return tuple(messages.Diagnostic(code=one.value, advice=one.advice) for one in diagnostics)
