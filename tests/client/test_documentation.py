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
README = (ROOT / "README.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE + README, re.MULTILINE | re.DOTALL)
COMMANDS = [block for block in SHELL if "camserve explain" in block]


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
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for said in re.findall(r"print\(error\)  # (.*) …", program):
        assert done.stdout.startswith(said)


@pytest.mark.parametrize("commands", COMMANDS, ids=range(len(COMMANDS)))
def test_the_commands_run(commands: str, service: Service, newcomer: Path) -> None:
    script = f'camserve() {{ {sys.executable} -m camserve "$@"; }}\n{commands}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=newcomer,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CAMSERVE_URL": service.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"(?:-o|>|--out) ([\w.]+)", commands):
        assert (newcomer / name).exists(), name


def test_every_error_is_in_the_table() -> None:
    abstract = {"ClientError", "ProblemError", "Refused"}
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert {name for name in errors.__all__ if name[0].isupper()} - abstract <= named
    assert all(f"`{name}" in PAGE for name in abstract)


def test_every_call_is_in_the_table() -> None:
    members = vars(camserve.client.Client).items()
    calls = {name for name, value in members if callable(value) and not name.startswith("_")}
    assert all(f"`{name}(" in PAGE for name in calls - {"close"})
