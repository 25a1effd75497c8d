"""One batch tried as a whole, and then in parts, so that only the guilty job fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from camserve.contracts.failures import FailureMessage
from camserve.errors import OverBudget
from workers.failures import failure_of
from workers.rows import ComputeJob, Row

__all__ = ["Outcome", "attempt", "failing"]

Outcome = bytes | FailureMessage
Found = TypeVar("Found")


@contextmanager
def failing(job: ComputeJob, outcomes: dict[str, Outcome]) -> Iterator[None]:
    """Whatever is raised inside is the failure of this job, and of no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - one job must not take the others down
        outcomes[job.job_id] = failure_of(error, f"job {job.job_id}")


def attempt(
    batch: Sequence[Row],
    compute: Callable[[Sequence[Row]], list[Found]],
    outcomes: dict[str, Outcome],
) -> Iterator[tuple[Row, Found]]:
    """Compute a batch; if it fails, each job by itself, so that only the guilty one fails.

    A job of several inputs that fails is tried input by input: a model may take only one at once.
    What asks for more than its budget is not tried again. Rows of jobs that failed before, as
    `outcomes` tells, are left out.
    """
    batch = [row for row in batch if row.job.job_id not in outcomes]
    if not batch:
        return
    found: list[Found] = []
    try:
        found = compute(batch)
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if len(batch) == 1 or isinstance(error, OverBudget):
            for job_id in {row.job.job_id for row in batch}:
                outcomes[job_id] = failure_of(error, f"job {job_id}")
            return
    if found:
        yield from zip(batch, found, strict=True)
        return
    # out here the failed pass's tensors, which the error holds, are gone
    for part in _parts(batch):
        yield from attempt(part, compute, outcomes)


def _parts(batch: Sequence[Row]) -> list[list[Row]]:
    """A batch by jobs; a batch of one job by inputs."""
    by_job: dict[str, list[Row]] = {}
    for row in batch:
        by_job.setdefault(row.job.job_id, []).append(row)
    return list(by_job.values()) if len(by_job) > 1 else [[row] for row in batch]
