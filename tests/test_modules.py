"""The modules as they say they are: what each offers, and where CONTRIBUTING.md says things are."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.service import ROOT

PACKAGES = ("app", "camserve", "workers")


def modules() -> dict[str, ast.Module]:
    """The syntax of each module, by its name. Nothing is imported."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {name_of(path): ast.parse(path.read_text("utf-8")) for path in paths}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offered(module: ast.Module) -> set[str] | None:
    """What is in `__all__`; None if there is none."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return set(ast.literal_eval(statement.value))
    return None


def test_what_others_import_is_offered() -> None:
    found = modules()
    imported: dict[str, set[str]] = defaultdict(set)
    for name, module in found.items():
        for statement in ast.walk(module):
            if isinstance(statement, ast.ImportFrom) and statement.module in found:
                names = {one.name for one in statement.names}
                imported[statement.module] |= {
                    one for one in names if f"{statement.module}.{one}" not in found
                }
        if any(isinstance(one, ast.ClassDef | ast.FunctionDef) for one in module.body):
            is_program = "__main__" in ast.unparse(module)
            assert offered(module) is not None or is_program, f"{name} has no __all__"
    missing = {
        name: left
        for name, names in imported.items()
        if (left := names - (offered(found[name]) or set())) and name.count(".")
    }
    assert not missing


def test_the_places_of_contributing_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    places = re.findall(r"`((?:app|camserve|workers|tests|docs)/[\w./-]*)`", text)
    assert len(places) > 40
    assert [place for place in places if not (ROOT / place).exists()] == []
