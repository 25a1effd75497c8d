"""docs/client.md: its programs run, and its tables name what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import camserve.client
from camserve.client import errors
from tests.service import ROOT, Service

PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_programs_run(program: str, service: Service, newcomer: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, service.url)],
        cwd=newcomer,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for said in re.findall(r"print\(error\)  # (.*) …", program):
        assert done.stdout.startswith(said)


def test_every_error_is_in_the_table() -> None:
    abstract = {"ClientError", "ProblemError", "Refused"}
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(errors.__all__) - abstract <= named
    assert all(f"`{name}" in PAGE for name in abstract)


def test_every_call_is_in_the_table() -> None:
    calls = {name for name in vars(camserve.client.Client) if not name.startswith("_")}
    assert all(f"`{name}(" in PAGE for name in calls - {"close"})
