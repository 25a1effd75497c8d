"""Each metric is described where operators look, and nothing is described that is none."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.app.examples import FOLDER
from tests.service import ROOT

PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
NAMES = {
    line.split()[0]
    for line in json.loads((FOLDER / "metrics.json").read_text("utf-8"))["response"]["body"]
}
"""As the service tells them; test_examples compares the file with a running one."""


def documented() -> set[str]:
    """The names in the tables of metrics; `…_free_bytes` stands for the name before it."""
    section = PAGE.partition("## Metrics")[2].partition("\n## ")[0]
    found = set()
    for row in re.findall(r"^\| (`(?:camserve|process)_.+?) \|", section, re.MULTILINE):
        first, *others = re.findall(r"`([\w…]+)`", row)
        found.add(first)
        for name in others:
            found.add(
                re.sub(r"_used_bytes$", name.removeprefix("…"), first) if "…" in name else name
            )
    return found


def test_the_page_names_each_metric() -> None:
    assert documented() == NAMES


def test_the_expressions_are_of_metrics() -> None:
    used = set(re.findall(r"\b(camserve_\w+|process_\w+)", PAGE))
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    unknown = {s for s in stems - NAMES if not any(name.startswith(s) for name in NAMES)}
    assert unknown == set()


DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "camserve.json").read_text("utf-8"))
OF_FRONT_ENDS = ("http_", "problems", "stage_", "input_cache", "event_loop", "build_info")


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_the_dashboard_shows_metrics_that_there_are(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        used = re.findall(r"\b(?:camserve|process)_\w+", target["expr"])
        assert used
        for name in used:
            assert re.sub(r"_(bucket|sum|count)$", "", name) in NAMES
            if name.startswith("camserve_") and not name[9:].startswith(OF_FRONT_ENDS):
                # the same from each front end: summed over them it would be too much
                one = rf"max (without \(instance, job\)|by \(\w+\)) \((\w+\()?{name}\b"
                assert re.search(one, target["expr"]), target["expr"]


def test_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
