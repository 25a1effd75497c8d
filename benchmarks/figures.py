"""What is measured: one number each, with its target if the project has set one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "Figure",
    "Latencies",
    "Missing",
    "Row",
    "Target",
    "at_least",
    "at_most",
    "documented",
    "table",
]

WIDTH = 66


@dataclass(frozen=True)
class Target:
    """The limit that a number is to keep."""

    limit: float
    from_above: bool

    def met(self, value: float) -> bool:
        return value <= self.limit if self.from_above else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.from_above else '>='} {self.limit:g}"


def at_most(limit: float) -> Target:
    return Target(limit, from_above=True)


def at_least(limit: float) -> Target:
    return Target(limit, from_above=False)


@dataclass(frozen=True)
class Figure:
    """One number. unit: `x` is a ratio of things measured in turns in this run. spread: the
    quartiles of what `value` is the median of."""

    what: str
    value: float
    unit: str
    target: Target | None = None
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.value)


@dataclass(frozen=True)
class Latencies:
    """How soon `count` requests were answered, and how many of them a second."""

    what: str
    count: int
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Missing:
    """What could not be measured, and why: it is in the report, and never left out silently."""

    what: str
    reason: str


Row = Figure | Latencies | Missing


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a table for people."""
    for row in rows:
        yield f"  {row.what:{WIDTH}} {_said(row)}".rstrip()


def _said(row: Row) -> str:
    match row:
        case Missing():
            return f"not measured: {row.reason}"
        case Latencies():
            times = (row.p50_ms, row.p90_ms, row.p99_ms, row.max_ms)
            p50, p90, p99, most = (f"{time_ms:.1f}" for time_ms in times)
            return (
                f"{_number(row.per_s):>9} /s     p50 {p50}, p90 {p90}, p99 {p99}, max {most} ms "
                f"(n={row.count})"
            )
        case Figure(target=None):
            return f"{_number(row.value):>9} {row.unit}"
    verdict = "met" if row.met else "MISSED"
    return f"{_number(row.value):>9} {row.unit:<5} {row.target!s:>9}  {verdict}"


def _number(value: float) -> str:
    """Three significant digits or more, and an exponent only where it is easier to read."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def documented(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """The rows for results.json."""
    return [_document(row) for row in rows]


def _document(row: Row) -> dict[str, Any]:
    match row:
        case Missing():
            return {"what": row.what, "not_measured": row.reason}
        case Latencies():
            return {name: _rounded(value) for name, value in asdict(row).items()}
    found: dict[str, Any] = {"what": row.what, "value": _rounded(row.value), "unit": row.unit}
    if row.spread is not None:
        found["quartiles"] = [_rounded(bound) for bound in row.spread]
    if row.target is not None:
        found |= {"target": str(row.target), "met": row.met}
    return found


def _rounded(value: Any) -> Any:
    """Four significant digits of a float."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
