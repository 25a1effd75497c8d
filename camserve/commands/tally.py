"""How far a run over many files is, and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Tally"]

_SHOWN_FILES = 3


@dataclass
class Tally:
    """Counts of a run. `skipped` are those that an earlier run has done."""

    total: int
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    started_s: float = field(default_factory=time.monotonic)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.succeeded + self.failed + self.skipped

    @property
    def left(self) -> int:
        return self.total - self.done

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def per_second(self) -> float:
        """Files that were explained, or failed, in a second."""
        return (self.succeeded + self.failed) / max(self.seconds, 1e-9)

    def fail(self, name: str, document: dict[str, Any]) -> None:
        """One more failure, counted under its code."""
        code = str(document["code"])
        self.failed += 1
        self.reasons[code] += 1
        self.details.setdefault(code, str(document["detail"]))
        names = self.examples.setdefault(code, [])
        if len(names) < _SHOWN_FILES:
            names.append(name)

    def document(self, *, interrupted: bool) -> dict[str, Any]:
        """As in `summary.json`."""
        return {
            "total": self.total,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "skipped": self.skipped,
            "left": self.left,
            "interrupted": interrupted,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 3),
            "failures": [
                {
                    "code": code,
                    "count": count,
                    "detail": self.details[code],
                    "files": self.examples[code],
                }
                for code, count in self.reasons.most_common()
            ],
        }

    def json(self, *, interrupted: bool) -> str:
        return json.dumps(self.document(interrupted=interrupted))

    def lines(self) -> list[str]:
        """For people: the counts, and each reason of failures with some of its files."""
        parts = [f"{self.succeeded} explained"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.skipped} done before"] if self.skipped else []
        parts += [f"{self.left} left"] if self.left else []
        worked = bool(self.succeeded or self.failed)
        speed = f" in {self.seconds:.1f} s ({self.per_second:.1f}/s)" if worked else ""
        lines = [f"{', '.join(parts)}{speed}"]
        for code, count in self.reasons.most_common():
            names = ", ".join(self.examples[code]) + (", …" if count > _SHOWN_FILES else "")
            lines.append(f"{count} x {code}: {self.details[code]} ({names})")
        return lines
