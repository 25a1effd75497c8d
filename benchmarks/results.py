"""The report that is kept: benchmarks/results.json."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import Row, documented
from benchmarks.machine import machine, versions
from benchmarks.options import Options

__all__ = ["Results"]


class Results:
    """The rows of each part, with what they were measured on."""

    def __init__(self, head: dict[str, Any], parts: dict[str, Any], *, quick: bool) -> None:
        self._head = head
        self._parts = parts
        self._quick = quick

    @classmethod
    def here(cls, options: Options) -> Self:
        """Of this machine, without a row."""
        head = {"machine": machine(), "device": options.device, "threads": options.threads}
        return cls(head, {}, quick=options.quick)

    @classmethod
    def read(cls, path: Path, options: Options) -> Self:
        """What the file says of other parts, if it is of this machine and these options."""
        here = cls.here(options)
        here.take_over(json.loads(path.read_text()) if path.exists() else {})
        return here

    def take_over(self, known: dict[str, Any]) -> None:
        """The parts of another report, if it is of this machine."""
        if {name: known.get(name) for name in self._head} == self._head:
            self._parts = known["parts"]

    def add(self, part: str, rows: Sequence[Row], took_s: float) -> None:
        """Take the place of what was known of this part."""
        self._parts[part] = {
            "measured": dt.datetime.now(dt.UTC).date().isoformat(),
            "quick": self._quick,
            "took_s": round(took_s),
            "versions": versions(),
            "rows": documented(rows),
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({**self._head, "parts": self._parts}, indent=1) + "\n")

    def summary(self) -> str:
        """How many targets are met, and which are missed."""
        rows = [row for part in self._parts.values() for row in part["rows"]]
        marked = [row for row in rows if "target" in row]
        missed = [row for row in marked if not row["met"]]
        lines = [f"{len(marked) - len(missed)} of {len(marked)} targets are met"]
        lines += [f"  missed: {row['what']}: {row['value']} {row['unit']}, target {row['target']}"
                  for row in missed]  # fmt: skip
        lines += [f"  not measured: {row['what']}: {row['not_measured']}"
                  for row in rows if "not_measured" in row]  # fmt: skip
        return "\n".join(lines)
