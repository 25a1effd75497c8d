"""What a report says of a number, and what it keeps of other runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.agreement import agreement
from benchmarks.figures import Figure, Latencies, Missing, at_least, at_most, documented, table
from benchmarks.options import Options
from benchmarks.results import Results
from benchmarks.timing import Turns, quantile

ROWS = [
    Figure("cost", 1.04, "x", at_most(1.05), (1.0, 1.1)),
    Figure("speed", 3.99, "x", at_least(4)),
    Figure("time", 12.3456, "ms"),
    Latencies("answers", 10, 2.5, 1.0, 2.0, 3.0, 4.0),
    Missing("a rival", "it cannot be installed"),
]


def test_a_target_is_met_at_its_edge() -> None:
    assert at_most(1.05).met(1.05)
    assert not at_most(1.05).met(1.0501)
    assert at_least(4).met(4)
    assert not at_least(4).met(3.99)


def test_every_row_is_told() -> None:
    cost, speed, time, answers, rival = documented(ROWS)
    assert cost == {
        "what": "cost", "value": 1.04, "unit": "x", "quartiles": [1.0, 1.1],
        "target": "<= 1.05", "met": True,
    }  # fmt: skip
    assert (speed["target"], speed["met"]) == (">= 4", False)
    assert time == {"what": "time", "value": 12.35, "unit": "ms"}
    assert (answers["count"], answers["p99_ms"]) == (10, 3.0)
    assert rival == {"what": "a rival", "not_measured": "it cannot be installed"}
    lines = list(table(ROWS))
    assert lines[0].endswith("<= 1.05  met")
    assert lines[1].endswith(">= 4  MISSED")
    assert lines[4].endswith("not measured: it cannot be installed")


def test_a_ratio_is_of_the_same_round() -> None:
    turns = Turns({"one": [2.0, 30.0, 2.2], "other": [1.0, 10.0, 1.0]})
    ratio = turns.ratio("one / other", "one", "other")
    assert ratio.value == pytest.approx(2.2)
    assert ratio.spread == pytest.approx((2.1, 2.6))


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0


def test_agreement_is_that_of_the_worst_map() -> None:
    truth = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 2.0]]])
    same = agreement(truth, truth)
    assert (same.relative_error, same.pearson) == (0.0, pytest.approx(1.0))
    scaled = agreement(torch.stack([truth[0], 3 * truth[1] + 1]), truth)
    assert (scaled.relative_error, scaled.pearson) == (2.5, pytest.approx(1.0))
    assert agreement(torch.stack([truth[0], -truth[1]]), truth).pearson == pytest.approx(-1.0)


def test_a_part_replaces_itself_alone(tmp_path: Path) -> None:
    path, options = tmp_path / "results.json", Options(threads=1)
    results = Results.read(path, options)
    results.add("engine", ROWS[:2], 1.0)
    results.add("queue", ROWS[2:], 1.0)
    results.write(path)
    results = Results.read(path, options)
    results.add("engine", ROWS[:1], 2.0)
    results.write(path)
    parts = json.loads(path.read_text())["parts"]
    assert [len(parts[name]["rows"]) for name in ("engine", "queue")] == [1, 3]
    assert "torch" in parts["engine"]["versions"]


def test_what_others_measured_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results.read(path, Options(threads=1))
    results.add("engine", ROWS, 1.0)
    results.write(path)
    assert "0 of 0" in Results.read(path, Options(threads=2)).summary()
    summary = Results.read(path, Options(threads=1)).summary()
    assert "1 of 2 targets are met" in summary
    assert "missed: speed: 3.99 x, target >= 4" in summary
    assert "not measured: a rival: it cannot be installed" in summary
