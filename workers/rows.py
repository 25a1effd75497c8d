"""Jobs taken apart into rows, one input each, and rows put together into batches."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from camserve.contracts.jobs import (
    Job,
    JobTarget,
    ScalarTarget,
    input_name,
    reference_name,
    region_name,
)
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.engine import Budget, ClassIndex, Reduction, Region, Target, Top
from camserve.engine.execution import ActivationCache, Recall
from camserve.errors import InvalidInput
from camserve.expressions import parse
from workers.levels import network_input
from workers.models import ResidentModel
from workers.staging import Staged

__all__ = [
    "ComputeJob",
    "Row",
    "batches",
    "read_rows",
    "recall_of",
    "stacked",
    "way_of",
]


@dataclass(frozen=True)
class ComputeJob:
    """A job and its payload, as claimed. withdrawn: is set, by the event loop, once nobody wants
    its result any more. staged: the payload, if it was read before the job began."""

    job_id: str
    job: Job
    payload: bytes
    withdrawn: threading.Event = field(default_factory=threading.Event, compare=False)
    staged: Staged | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Row:
    """One input of one job. tensor: as it was sent, levels or numbers."""

    job: ComputeJob
    index: int
    tensor: Tensor
    targets: tuple[Target, ...]

    @property
    def key(self) -> Hashable:
        """Equal for equal inputs; None if nothing of it may be kept."""
        job = self.job.job
        if job.input_digest is None or not job.may_fill_caches:
            return None
        return job.input_digest, self.index


def recall_of(
    model: ResidentModel, rows: Sequence[Row], cache: ActivationCache | None
) -> Recall | None:
    """What may be remembered of the rows of one pass."""
    if cache is None:
        return None
    fresh = frozenset(n for n, row in enumerate(rows) if not row.job.job.may_read_caches)
    return Recall(cache, model.identity, [row.key for row in rows], fresh)


def read_rows(job: ComputeJob, model: ResidentModel, budget: Budget) -> Iterator[Row]:
    """The rows of a job, in order. Raises InvalidInput if its payload is damaged.

    The outputs of inputs that others are compared with are computed here.
    """
    payload, explainer = _Payload(job), model.explainer
    inputs = [payload.tensor(input_name(index)) for index in range(len(job.job.inputs))]
    references: dict[int, Tensor] = {}
    for number, target in enumerate(job.job.targets):
        if isinstance(target, ScalarTarget) and target.reference == "given":
            references[number] = payload.tensor(reference_name(number))
        elif isinstance(target, ScalarTarget) and isinstance(target.reference, int):
            budget.spend(1)
            references[number] = explainer.output(
                stacked([inputs[target.reference]], model),
                reduction_layer=job.job.reduction_layer,
            )
    for index, tensor in enumerate(inputs):
        targets: list[Target] = []
        for number, target in enumerate(job.job.targets):
            region: Region | None = None
            if isinstance(target, ScalarTarget):
                region = (
                    payload.tensor(region_name(number, index))
                    if target.region == "given"
                    else target.region
                )
            targets += _engine_targets(target, region, references.get(number))
        yield Row(job, index, tensor, tuple(targets))


class _Payload:
    """The tensors of a job by name."""

    def __init__(self, job: ComputeJob) -> None:
        self._job_id = job.job_id
        try:
            self._tensors: Mapping[str, Tensor] = (
                job.staged.tensors() if job.staged else load(job.payload)
            )
        except SafetensorError as error:
            raise self._damaged() from error

    def tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise self._damaged()
        return self._tensors[name]

    def _damaged(self) -> InvalidInput:
        return InvalidInput(f"the payload of job {self._job_id} is damaged")


def _engine_targets(
    target: JobTarget, region: Region | None, reference: Tensor | None
) -> Iterator[Target]:
    match target:
        case ClassIndexTarget():
            yield from (ClassIndex(index) for index in target.indices)
        case TopTarget():
            yield Top(target.top)
        case ScalarTarget(expression=str(text)):
            yield parse(text)
        case _:
            yield Reduction(
                target.reduction or "",
                class_index=target.class_index,
                against=target.against,
                index=target.index,
                region=region,
                reference=reference,
            )


def stacked(inputs: Sequence[Tensor], model: ResidentModel) -> Tensor:
    """A batch of inputs as they were sent, of one shape, as the network takes it, on its device."""
    spec, device = model.card.input, model.explainer.device
    there = [one.to(device) for one in inputs]
    if len({one.dtype for one in there}) > 1:
        there = [network_input(one, spec) for one in there]
    return network_input(torch.stack(there, model.explainer.batch_dimension), spec)


def batches(rows: Sequence[Row], max_batch: int) -> Iterator[list[Row]]:
    """Rows that may share a forward: equal layers, shape and way to compute; targets may differ.

    Inputs of different length never share one, so that nothing is padded. What costs more than
    one pass runs by itself, job by job: its budget is its own.
    """
    groups: dict[object, list[Row]] = {}
    for row in rows:
        owner = row.job.job_id if row.job.job.is_costly else ""
        groups.setdefault((owner, way_of(row)), []).append(row)
    for group in groups.values():
        yield from (group[i : i + max_batch] for i in range(0, len(group), max_batch))


def way_of(row: Row) -> Hashable:
    """How it is computed, of which shape, and as which type once it is ready: what the rows of a
    batch have in common."""
    dtype = torch.float32 if row.tensor.dtype == torch.uint8 else row.tensor.dtype
    return row.job.job.model_dump_json(include=_HOW), row.tensor.shape, dtype


_HOW = {
    "kind",
    "method",
    "method_options",
    "feature_layers",
    "feature_format",
    "reduction_layer",
    "precision",
    "evaluate",
}
