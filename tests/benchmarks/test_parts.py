"""Each part runs, with networks and loads so small that only its rows count."""

from __future__ import annotations

import math

import pytest

from benchmarks.__main__ import measured
from benchmarks.figures import Figure, Latencies, Row
from benchmarks.options import Options

TINY = Options(tiny=True, threads=1)
OTHERS = ("worker", "scaling", "memory", "livez", "libraries", "servers")


def rows(part: str) -> dict[str, Row]:
    """By their names; all of them measured."""
    found = list(measured(part, TINY))
    assert all(isinstance(row, Figure | Latencies) for row in found)
    named = {row.what: row for row in found}
    assert len(named) == len(found)
    for row in found:
        value = row.value if isinstance(row, Figure) else row.per_s
        assert math.isfinite(value), row
    return named


def test_engine() -> None:
    found = rows("engine")
    assert "a tiny ResNet, batch 2: exact / forward" in found
    pearson = found["a tiny ResNet, batch 2: bfloat16, Pearson"]
    assert isinstance(pearson, Figure)
    assert pearson.value > 0.9


def test_queue() -> None:
    assert {"PING of the server, p50", "job of 150 KB, p99"} <= set(rows("queue"))


@pytest.mark.soak
def test_service() -> None:
    found = rows("service")
    assert {"JSON, 1 client", "PNG, 32 clients"} <= set(found)
    ratio = found["32 clients / the bare engine, maps a second"]
    assert isinstance(ratio, Figure)
    assert ratio.target is not None


@pytest.mark.soak
@pytest.mark.parametrize("part", OTHERS)
def test_other_parts(part: str) -> None:
    assert rows(part)
