"""One batch tried as a whole, and then in parts: only the guilty job fails, and what is too much
for the device's memory at once is computed a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import TypeVar

from camserve.contracts.failures import FailureMessage
from camserve.engine import is_out_of_memory
from camserve.errors import Canceled, OverBudget, TooLargeForDevice, one_line
from workers.batch_sizes import BatchSizes
from workers.failures import failure_of
from workers.job_context import about
from workers.memory import free_memory
from workers.rows import ComputeJob, Row

__all__ = ["Compute", "Outcome", "attempt", "failing"]

logger = logging.getLogger(__name__)

Outcome = bytes | FailureMessage
Found = TypeVar("Found")

Compute = Callable[[Sequence[Row], int], list[Found]]
"""(rows, how many inputs or variants of one may share a forward pass) to one result a row."""


@contextmanager
def failing(job: ComputeJob, outcomes: dict[str, Outcome]) -> Iterator[None]:
    """Whatever is raised inside is the failure of this job, and of no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - one job must not take the others down
        with about(job.job_id, job.job):
            outcomes[job.job_id] = failure_of(error, f"job {job.job_id}")


def attempt(
    batch: Sequence[Row],
    compute: Compute[Found],
    outcomes: dict[str, Outcome],
    *,
    sizes: BatchSizes,
    device: str,
) -> Iterator[tuple[Row, Found]]:
    """Compute a batch of rows of one kind; if it fails, its parts.

    If the device runs out of memory, what is left is computed by halves, and `sizes` learns it; a
    row that does not fit even alone, and with nothing left over from before, fails its job. After
    any other error each job is tried by itself, so that only the guilty one fails, and then input
    by input: a model may take only one at once. What asks for more than its budget is not tried
    again. Rows of jobs that failed before, as `outcomes` tells, are left out, and so are those
    whose jobs were withdrawn meanwhile, which are answered as canceled.
    """
    waiting: list[list[Row]] = [list(batch)]
    given_back = False  # what was left over from before
    while waiting:
        part = _wanted(waiting.pop(0), outcomes)
        at_once = sizes.at_once(part) if part else 0
        if len(part) > at_once:
            waiting[:0] = [part[:at_once], part[at_once:]]
        elif part:
            tried = at_once if part[0].job.job.is_costly else len(part)
            found = _try(part, at_once, compute, outcomes, device)
            if isinstance(found, list):
                sizes.fitted(part, tried)
                yield from zip(part, found, strict=True)
            elif found is _Failed.IN_PARTS:
                waiting[:0] = _parts(part)
            elif found is _Failed.FOR_WANT_OF_MEMORY:
                free_memory(device)
                sizes.ran_out(part, tried)
                if tried == 1 and given_back:
                    outcomes[part[0].job.job_id] = FailureMessage.of(
                        _too_large(part[0], device, any_size=sizes.any_size)
                    )
                waiting.insert(0, part)
                given_back = True


class _Failed(Enum):
    FOR_GOOD = auto()
    IN_PARTS = auto()  # it may succeed in parts
    FOR_WANT_OF_MEMORY = auto()


def _try(
    part: Sequence[Row],
    at_once: int,
    compute: Compute[Found],
    outcomes: dict[str, Outcome],
    device: str,
) -> list[Found] | _Failed:
    """Once this has returned, the tensors of a failed pass, which the error holds, are gone."""
    try:
        return compute(part, at_once)
    except Exception as error:
        if is_out_of_memory(error):
            logger.warning("%s: %s", _tried(part, at_once, device), one_line(error))
            return _Failed.FOR_WANT_OF_MEMORY
        if len(part) > 1 and not isinstance(error, OverBudget):
            return _Failed.IN_PARTS
        for job in {row.job.job_id: row.job for row in part}.values():
            with failing(job, outcomes):
                raise error  # noqa: TRY201 - caught by that, once for each job
        return _Failed.FOR_GOOD


def _wanted(rows: Sequence[Row], outcomes: dict[str, Outcome]) -> list[Row]:
    for row in rows:
        if row.job.withdrawn.is_set():
            outcomes.setdefault(row.job.job_id, FailureMessage.of(Canceled()))
    return [row for row in rows if row.job.job_id not in outcomes]


def _parts(batch: Sequence[Row]) -> list[list[Row]]:
    """A batch by jobs; a batch of one job by inputs."""
    by_job: dict[str, list[Row]] = {}
    for row in batch:
        by_job.setdefault(row.job.job_id, []).append(row)
    return list(by_job.values()) if len(by_job) > 1 else [[row] for row in batch]


def _tried(rows: Sequence[Row], at_once: int, device: str) -> str:
    job, shape = rows[0].job.job, tuple(rows[0].tensor.shape)
    passes = f", {at_once} variants at once" if job.is_costly else ""
    return f"{device} has no memory for {len(rows)} x {shape} to {job.model}{passes}"


def _too_large(row: Row, device: str, *, any_size: bool) -> TooLargeForDevice:
    """With the remedies that apply. any_size: whether an input of this model may be smaller."""
    job, shape = row.job.job, tuple(row.tensor.shape)
    what, remedies = "a prediction", ["send a smaller input"] if any_size else []
    if job.kind == "explain":
        what = f"{job.method} with evaluate" if job.evaluate else job.method
        if job.is_costly:
            remedies.append("ask for gradcam without evaluate")
        if sum(target.count for target in job.targets) > 1:
            remedies.append("ask for fewer targets at once")
    if job.precision == "float32":
        remedies.append("give precision=bfloat16")
    remedies.append("name a larger device by execution")
    return TooLargeForDevice(
        f"{what} of one input of shape {shape} needs more memory than {device} has: "
        + ", or ".join(remedies),
        shape=list(shape),
        device=device,
    )
