"""The table of commands: what there is, and what `--help` costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from camserve import __version__
from camserve.__main__ import COMMANDS
from tests.service import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "camserve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_names_every_command() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"\n    {name}" in shown.stdout for name in COMMANDS)


def test_help_waits_for_no_library() -> None:
    code = (
        "import sys; from camserve.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print('loaded:', *sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    loaded = set(shown.stdout.rpartition("loaded:")[2].split())
    assert "argparse" in loaded
    assert not loaded & {"pydantic", "httpx", "rich", "numpy", "fastapi", "redis", "torch"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    shown = run(name, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: camserve {name}")


def test_the_version() -> None:
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_of_a_mistake_is_short(name: str) -> None:
    done = run(name, "--timeout", "soon", "--no-such-option")
    assert done.returncode == 2
    *usage, error = done.stderr.splitlines()
    assert len(usage) <= 3, "a wall of options hides what is wrong"
    assert error.startswith("camserve")
    assert "error: " in error


@pytest.mark.parametrize("arguments", [(), ("server",), ("--url", "serve")])
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: camserve" in done.stderr
