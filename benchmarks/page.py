"""`python -m benchmarks.page`: writes the measured part of docs/benchmarks.md.

From results.json, the latest run, and from those that were kept beside it as results-NAME.json,
because they are of other machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.__main__ import PARTS, RESULTS
from benchmarks.running import ROOT

__all__ = ["measured_part"]

PAGE = ROOT / "docs" / "benchmarks.md"
HEADING = "## One run"
KEPT = "## An earlier run, on another machine"


def measured_part(known: Mapping[str, Any], heading: str = HEADING) -> Iterator[str]:
    """The lines of one run, from its heading on."""
    machine = known["machine"]
    yield heading
    yield ""
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{', '.join(machine['instructions'])}; {known['threads']} threads, on the "
        f"{known['device'].upper()}."
    )
    for part in (name for name in PARTS if name in known["parts"]):
        found = known["parts"][part]
        yield from ("", f"### {part}: {PARTS[part]}", "")
        form = ", the short form" if found["quick"] else ""
        yield f"torch {found['versions']['torch']}, {found['measured']}, {found['took_s']} s{form}."
        yield from ("", "| what | measured | target | |", "|---|---|---|---|")
        for row in found["rows"]:
            yield _line(row)


def _line(row: Mapping[str, Any]) -> str:
    if "not_measured" in row:
        reason = " ".join(row["not_measured"].split())[-200:].replace("|", "/")
        return f"| {row['what']} | not measured: {reason} | | |"
    if "p50_ms" in row:
        times = ", ".join(f"{name} {row[f'{name}_ms']:g}" for name in ("p50", "p90", "p99", "max"))
        return f"| {row['what']} | {row['per_s']:g}/s; {times} ms | | |"
    value = f"{row['value']:g} {row['unit']}".strip()
    verdict = {True: "met", False: "**missed**", None: ""}[row.get("met")]
    return f"| {row['what']} | {value} | {row.get('target', '')} | {verdict} |"


def main() -> None:
    head, _, _ = PAGE.read_text().partition(HEADING)
    lines = list(measured_part(json.loads(RESULTS.read_text())))
    for kept in sorted(RESULTS.parent.glob(f"{RESULTS.stem}-*.json")):
        lines += ["", *measured_part(json.loads(kept.read_text()), KEPT)]
    PAGE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
