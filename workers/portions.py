"""How the jobs of one claim are taken apart: what is computed and answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from camserve.broker import Begun
from camserve.contracts.jobs import Job

__all__ = ["Work", "portions"]

Work = Sequence[tuple[Begun, Job]]


def portions(work: Work, max_inputs: int) -> Iterator[Work]:
    """Jobs to run and commit together: as many as make one forward pass, and at least one.

    Predictions come first, which take least; a job of many passes runs alone and last, so that the
    others do not wait for it. All jobs of a portion are of one kind.
    """
    portion: list[tuple[Begun, Job]] = []
    inputs = 0
    for held, job in sorted(work, key=lambda one: _weight(one[1])):
        full = inputs + len(job.inputs) > max_inputs
        if portion and (full or job.is_costly or job.kind != portion[0][1].kind):
            yield portion
            portion, inputs = [], 0
        portion.append((held, job))
        inputs += len(job.inputs)
    if portion:
        yield portion


def _weight(job: Job) -> int:
    return 2 if job.is_costly else 0 if job.kind == "predict" else 1
