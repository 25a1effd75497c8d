"""`python tests/changelog.py`: is CHANGELOG.md in the form of Keep a Changelog, and up to date?"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
VERSION = re.compile(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}")


def faults(text: str, version: str) -> list[str]:
    """What is wrong with a changelog of a project at `version`."""
    found = []
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if not releases or releases[0] != "[Unreleased]":
        found.append("the first release must be [Unreleased]")
    found += [f"not a release: {name}" for name in releases[1:] if not VERSION.fullmatch(name)]
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    found += [f"not a kind of change: {kind}" for kind in kinds if kind not in KINDS]
    entries = re.findall(r"^- (.+)$", text, re.MULTILINE)
    found += [f"an entry ends with a full stop: {entry}" for entry in entries if entry[-1] != "."]
    released = [match[1] for name in releases if (match := VERSION.fullmatch(name))]
    if not entries:
        found.append("there is no entry")
    if released and released[0] != version:
        found.append(f"the newest release is {released[0]}, the project's version {version}")
    return found


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = faults((ROOT / "CHANGELOG.md").read_text("utf-8"), project["version"])
    for fault in found:
        sys.stderr.write(f"CHANGELOG.md: {fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
