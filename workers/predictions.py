"""Predictions on the device: jobs in, the model's outputs out. Runs in the compute thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from safetensors.torch import save

from camserve.contracts.jobs import Job, PredictionResult, PredictionRow, output_name
from camserve.contracts.wire import METADATA_KEY
from camserve.engine import Budget, Prediction, is_out_of_memory
from camserve.engine.execution import ActivationCache
from camserve.errors import TooLarge
from workers.attempts import Outcome, attempt, failing
from workers.batch_sizes import BatchSizes, LearntSizes
from workers.compute import Limits, as_messages
from workers.models import ResidentModel
from workers.rows import ComputeJob, Row, batches, read_rows, recall_of, stacked

__all__ = ["predict_jobs"]


def predict_jobs(
    model: ResidentModel,
    jobs: Sequence[ComputeJob],
    *,
    limits: Limits,
    worker: str,
    device: str,
    sizes: BatchSizes | None = None,
    activations: ActivationCache | None = None,
) -> list[Outcome]:
    """Run jobs of one model together; inputs that fit share a forward pass.

    A job that cannot be computed fails alone: if a batch raises, it is tried again in parts.
    sizes: what is known of the model's batches on this device. activations: of inputs that were
    computed before.
    """
    started_s = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    rows: list[Row] = []
    for job in jobs:
        with failing(job, outcomes):
            rows += read_rows(job, model, Budget())
    predicted: dict[tuple[str, int], _Predicted] = {}

    def predict(batch: Sequence[Row], _at_once: int) -> list[_Predicted]:
        explainer, precision = model.explainer, batch[0].job.job.precision
        model.asked.add(precision)
        inputs = stacked([row.tensor for row in batch], model)
        recall = recall_of(model, batch, activations)
        try:
            found = explainer.predict(inputs, precision=precision, recall=recall)
        except BaseException as error:
            if activations is not None and is_out_of_memory(error):
                activations.clear()
            raise
        recalled = recall.hits if recall else set()
        return [_Predicted(one, len(batch), row in recalled) for row, one in enumerate(found)]

    sizes = sizes or LearntSizes(limits.max_batch).of(model)
    for batch in batches(rows, sizes.most):
        for row, found in attempt(batch, predict, outcomes, sizes=sizes, device=device):
            predicted[row.job.job_id, row.index] = found
    compute_ms = (time.perf_counter() - started_s) * 1000
    for job in jobs:
        if job.job_id in outcomes:
            continue
        with failing(job, outcomes):
            of_job = [predicted[job.job_id, index] for index in range(len(job.job.inputs))]
            outcomes[job.job_id] = _result(
                model,
                job.job,
                of_job,
                most_numbers=limits.output_numbers,
                compute_ms=compute_ms,
                worker=worker,
                device=device,
            )
    return [outcomes[job.job_id] for job in jobs]


@dataclass(frozen=True)
class _Predicted:
    """One input's outputs, and what they took."""

    prediction: Prediction
    batch_size: int
    recalled: bool


def _result(
    model: ResidentModel,
    job: Job,
    predicted: Sequence[_Predicted],
    *,
    most_numbers: float,
    compute_ms: float,
    worker: str,
    device: str,
) -> bytes:
    """Raises TooLarge for outputs that the queue should not carry."""
    numbers = sum(one.prediction.output.numel() for one in predicted)
    if numbers > most_numbers:
        raise TooLarge(
            f"the model's outputs are {numbers / 1e6:.3g} million numbers, and the service answers "
            f"with at most {most_numbers / 1e6:g}: send fewer or smaller inputs",
            limit=most_numbers,
        )
    about = PredictionResult(
        model_version=model.card.version,
        output_format=model.explainer.report.output_format.replace("B", ""),
        rows=tuple(
            PredictionRow(diagnostics=as_messages(one.prediction.diagnostics)) for one in predicted
        ),
        compute_ms=round(compute_ms, 3),
        batch_size=max((one.batch_size for one in predicted), default=0),
        recalled=sum(one.recalled for one in predicted),
        precision=job.precision,
        worker=worker,
        device=device,
    )
    tensors = {
        output_name(index): one.prediction.output.float().contiguous()
        for index, one in enumerate(predicted)
    }
    return save(tensors, metadata={METADATA_KEY: about.model_dump_json()})
