"""A child learns that its parent is gone, however the parent died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camserve.lifeline import Lifeline, watch
from tests.service import ROOT

CHILD = """
import os, sys, time
from pathlib import Path
from camserve.lifeline import watch
marks = Path(sys.argv[1])
def gone():
    (marks / "gone").write_text("x")
    os._exit(0)
assert watch(gone)
assert not watch(gone), "the variable is taken out of the environment"
(marks / "pid").write_text(str(os.getpid()))
time.sleep(300)
"""
PARENT = """
import os, subprocess, sys, time
from camserve.lifeline import Lifeline
line = Lifeline()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], pass_fds=line.fds,
                         env=os.environ | line.environment)
time.sleep(300)
"""


def eventually(path: Path, limit_s: float = 100) -> None:
    end_s = time.monotonic() + limit_s
    while not path.exists():
        assert time.monotonic() < end_s, f"{path.name} never came about"
        time.sleep(0.01)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_is_told_when_the_parent_is_killed(tmp_path: Path, signal_: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path)], cwd=ROOT)
    try:
        eventually(tmp_path / "pid")
        time.sleep(0.1)
        assert not (tmp_path / "gone").exists()
        parent.send_signal(signal_)
        eventually(tmp_path / "gone")
    finally:
        parent.kill()
        parent.wait()


def test_a_cut_line_tells_at_once(tmp_path: Path) -> None:
    with Lifeline() as line:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            cwd=ROOT,
            pass_fds=line.fds,
            env=os.environ | line.environment,
        )
        eventually(tmp_path / "pid")
        line.cut()
        assert child.wait(100) == 0
        assert (tmp_path / "gone").exists()
        line.cut()  # twice is harmless


def test_a_process_without_a_parent_of_ours_watches_nothing() -> None:
    assert not watch(lambda: pytest.fail("called"))
