"""torch.export programs for tests, and what somebody might make of one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.service import ROOT

__all__ = ["CARD", "PROGRAM", "SHAPES", "changed", "rewritten"]

CARD = 'source = "export:model.pt2"'
SHAPES = ROOT / "models" / "shapes" / "model.pt2"
PROGRAM = "model/models/model.json"
"""The entry of a .pt2 file that holds the graph."""


def rewritten(path: Path, *, add: dict[str, bytes], of: Path = SHAPES) -> None:
    """A program, by default the shipped one, with entries added or replaced."""
    with zipfile.ZipFile(of) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            if name not in add:
                copy.writestr(name, source.read(name))
        for name, value in add.items():
            copy.writestr(name, value)


def changed(path: Path, of: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """A program whose list of nodes was changed in place."""
    with zipfile.ZipFile(of) as source:
        name = next(name for name in source.namelist() if name.endswith(PROGRAM.partition("/")[2]))
        program = json.loads(source.read(name))
    change(program["graph_module"]["graph"]["nodes"])
    rewritten(path, add={name: json.dumps(program).encode()}, of=of)
