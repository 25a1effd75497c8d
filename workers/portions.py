"""How the jobs of one claim are taken apart: what is computed and answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from camserve.broker import Begun
from camserve.contracts.jobs import Job
from workers.costs import is_costly

__all__ = ["Work", "portions"]

Work = Sequence[tuple[Begun, Job]]


def portions(work: Work, max_inputs: int) -> Iterator[Work]:
    """Jobs to run and commit together: as many as make one forward pass, and at least one.

    A job of many passes runs alone, so that the others do not wait for it.
    """
    portion: list[tuple[Begun, Job]] = []
    inputs = 0
    for held, job in sorted(work, key=lambda one: is_costly(one[1])):
        if portion and (inputs + len(job.inputs) > max_inputs or is_costly(job)):
            yield portion
            portion, inputs = [], 0
        portion.append((held, job))
        inputs += len(job.inputs)
    if portion:
        yield portion
