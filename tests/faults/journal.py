"""What the network wrote down: which inputs were computed together, where, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Execution", "Journal"]


@dataclass(frozen=True)
class Execution:
    """One call of the network. raised: the kind of its exception, if it did."""

    call: str
    pid: int
    at_s: float
    inputs: tuple[int, ...]
    raised: str | None

    @property
    def is_tried_again(self) -> bool:
        """Within the same attempt: a batch that fails is computed again in parts, and what did not
        fit once the cache is empty."""
        return self.raised is not None and (len(self.inputs) > 1 or "Memory" in self.raised)


class Journal:
    """The file that all workers of a scene append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def executions(self) -> list[Execution]:
        """In the order in which they began."""
        entries = [json.loads(line) for line in self.path.read_text().splitlines()]
        raised = {entry["call"]: entry["raised"] for entry in entries if "raised" in entry}
        return [
            Execution(
                call=entry["call"],
                pid=entry["pid"],
                at_s=entry["at_s"],
                inputs=tuple(entry["inputs"]),
                raised=raised.get(entry["call"]),
            )
            for entry in entries
            if "inputs" in entry
        ]

    def of(self, number: int) -> list[Execution]:
        """The computations of one job that count as runs of it."""
        return [one for one in self.executions() if number in one.inputs and not one.is_tried_again]

    def mates(self, numbers: set[int]) -> Iterator[tuple[int, int]]:
        """Pairs of a job of `numbers` and another that was computed together with it."""
        for one in self.executions():
            for number in numbers.intersection(one.inputs):
                yield from ((number, mate) for mate in one.inputs if mate not in numbers)
